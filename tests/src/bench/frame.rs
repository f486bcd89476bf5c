//! Packets as a test run takes them: an Ethernet header, an IP header, a
//! transport header and 64 bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use policy::abi::{Address, TCP, UDP, mapped};

/// A flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// IPv4-mapped or IPv6.
    pub source: Address,
    /// Of the same family.
    pub destination: Address,
    /// [`TCP`] or [`UDP`]; or ICMP.
    pub protocol: u8,
    /// Host order; of ICMP the type and the code.
    pub source_port: u16,
    /// Host order; of ICMP the checksum.
    pub destination_port: u16,
}

const PAYLOAD: usize = 64;
const FILLED: u8 = 0x5a;
/// The identifier of ICMP messages, which is the beginning of what follows.
pub const IDENTIFIER: u16 = u16::from_be_bytes([FILLED, FILLED]);

/// An IPv4 address as the maps have it.
pub fn v4(address: Ipv4Addr) -> Address {
    mapped(address.octets())
}

impl Flow {
    /// The flow of the answers.
    pub fn reversed(self) -> Flow {
        Flow {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    /// The ports as the transport header has them.
    pub fn ports(&self) -> [u8; 4] {
        let [s0, s1] = self.source_port.to_be_bytes();
        let [d0, d1] = self.destination_port.to_be_bytes();
        [s0, s1, d0, d1]
    }

    /// A packet of the flow. Checksums are zero: nothing looks at them.
    pub fn frame(&self) -> Vec<u8> {
        let transport = self.transport();
        let source = Ipv6Addr::from(self.source);
        let destination = Ipv6Addr::from(self.destination);
        let mut frame = vec![0; 12];
        match (source.to_ipv4_mapped(), destination.to_ipv4_mapped()) {
            (Some(source), Some(destination)) => {
                let length = be16(20 + transport.len());
                frame.extend([0x08, 0x00]);
                frame.extend([
                    0x45,
                    0,
                    length[0],
                    length[1],
                    0,
                    1,
                    0x40,
                    0,
                    64,
                    self.protocol,
                ]);
                frame.extend([0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => {
                let length = be16(transport.len());
                frame.extend([0x86, 0xdd]);
                frame.extend([0x60, 0, 0, 0, length[0], length[1], self.protocol, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
        }
        frame.extend(transport);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let mut header = self.ports().to_vec();
        match self.protocol {
            TCP => {
                header.extend([0, 0, 0, 1, 0, 0, 0, 1]);
                // 20 bytes, PSH and ACK.
                header.extend([0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
            }
            UDP => {
                header.extend(be16(8 + PAYLOAD));
                header.extend([0, 0]);
            }
            _ => {}
        }
        header.extend([FILLED; PAYLOAD]);
        header
    }
}

/// The lengths here are a few hundred at most.
fn be16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}
