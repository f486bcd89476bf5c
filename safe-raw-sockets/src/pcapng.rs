//! Packets with their owners as pcapng (draft-ietf-opsawg-pcapng), which
//! Wireshark, tshark and tcpdump read: each packet has a comment that says whose
//! it is, and flags that say which way it went.

use std::io::{self, Read};

/// `LINKTYPE_LINUX_SLL`, as of captures of any device: the kind without link
/// headers, `LINKTYPE_RAW`, libpcap reads of a single device only.
const COOKED: u16 = 113;
/// Its header: which way, no hardware, no address, what follows.
const COOKED_HEADER: u32 = 16;
const NO_HARDWARE: u16 = 0xfffe;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Options: of all blocks, of the section, of interfaces, packets, statistics.
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;
const DROPPED: u16 = 5;

/// Ten to the minus ninth of a second.
const NANOSECONDS: u8 = 9;

/// No block of this stream is larger.
const LONGEST: u32 = 1 << 20;

/// Which way a packet went, as its flags say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the slice.
    In,
    /// From the slice.
    Out,
}

/// A packet of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The slice's name.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// Which way it went.
    pub way: Way,
    /// The device's place in the stream, in the order in which they were told of.
    pub device: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Its length from the IP header on.
    pub length: u32,
    /// Its octets from there on, all or the first ones.
    pub octets: Vec<u8>,
}

/// What comes in a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A device of the node's, by its name.
    Device(String),
    /// A packet.
    Packet(Packet),
    /// So many packets were lost so far, as the stream was read too slowly.
    Lost(u64),
}

/// The beginning of a stream.
pub fn begin(to: &mut Vec<u8>) {
    block(to, SECTION, |to| {
        to.extend(BYTE_ORDER.to_le_bytes());
        to.extend([1, 0, 0, 0]);
        // Its length is not known.
        to.extend(u64::MAX.to_le_bytes());
        option(to, APPLICATION, b"slice");
        end_of_options(to);
    });
}

/// A device; the first is 0 in [`Packet::device`].
pub fn device(to: &mut Vec<u8>, name: &str, most: u32) {
    block(to, INTERFACE, |to| {
        to.extend(COOKED.to_le_bytes());
        to.extend([0, 0]);
        to.extend((most + COOKED_HEADER).to_le_bytes());
        option(to, NAME, name.as_bytes());
        option(to, RESOLUTION, &[NANOSECONDS]);
        end_of_options(to);
    });
}

/// A packet with its owner.
#[allow(
    clippy::too_many_arguments,
    reason = "the fields of a packet, of which the octets are borrowed"
)]
pub fn packet(
    to: &mut Vec<u8>,
    name: &str,
    id: u32,
    way: Way,
    device: u32,
    time_ns: u64,
    length: u32,
    octets: &[u8],
) {
    let (flags, came): (u32, u16) = match way {
        Way::In => (1, 0),
        Way::Out => (2, 4),
    };
    let first = octets.first().unwrap_or(&0) >> 4;
    let protocol = if first == 6 { IPV6 } else { IPV4 };
    block(to, PACKET, |to| {
        to.extend(device.to_le_bytes());
        time(to, time_ns);
        to.extend((number(octets.len()) + COOKED_HEADER).to_le_bytes());
        to.extend((length + COOKED_HEADER).to_le_bytes());
        for half in [came, NO_HARDWARE, 0, 0, 0, 0, 0, protocol] {
            to.extend(half.to_be_bytes());
        }
        padded(to, octets);
        option(to, COMMENT, format!("slice {name} {id}").as_bytes());
        option(to, FLAGS, &flags.to_le_bytes());
        end_of_options(to);
    });
}

/// So many packets were lost so far. They count for the first device, as it is
/// not known on which they were.
pub fn lost(to: &mut Vec<u8>, time_ns: u64, packets: u64) {
    block(to, STATISTICS, |to| {
        to.extend(0_u32.to_le_bytes());
        time(to, time_ns);
        option(to, DROPPED, &packets.to_le_bytes());
        end_of_options(to);
    });
}

fn block(to: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend(kind.to_le_bytes());
    to.extend([0; 4]);
    body(to);
    let length = number(to.len() - start + 4).to_le_bytes();
    to[start + 4..start + 8].copy_from_slice(&length);
    to.extend(length);
}

fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    to.extend(code.to_le_bytes());
    to.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    padded(to, value);
}

fn end_of_options(to: &mut Vec<u8>) {
    to.extend([0; 4]);
}

/// The upper half first.
fn time(to: &mut Vec<u8>, time_ns: u64) {
    for half in [time_ns >> 32, time_ns & 0xffff_ffff] {
        to.extend(u32::try_from(half).unwrap_or(0).to_le_bytes());
    }
}

fn padded(to: &mut Vec<u8>, value: &[u8]) {
    to.extend(value);
    to.extend(&[0; 3][..value.len().next_multiple_of(4) - value.len()]);
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Reads such a stream.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
}

impl<R: Read> Reader<R> {
    /// From the beginning of a stream.
    pub fn new(from: R) -> Self {
        Self { from }
    }

    /// The next item; none where the stream ends.
    ///
    /// # Errors
    /// Those of the source; [`io::ErrorKind::InvalidData`]: this is no such stream.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        loop {
            let mut head = [0; 8];
            match self.from.read_exact(&mut head) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            }
            let (kind, length) = (word(&head, 0)?, word(&head, 4)?);
            if !(12..=LONGEST).contains(&length) || length % 4 != 0 {
                return Err(invalid());
            }
            let mut body = vec![0; length as usize - 8];
            self.from.read_exact(&mut body)?;
            if word(&body, body.len() - 4)? != length {
                return Err(invalid());
            }
            body.truncate(body.len() - 4);
            match kind {
                INTERFACE => {
                    let name = find(&body, 8, NAME)?.unwrap_or_default();
                    return Ok(Some(Item::Device(text(name))));
                }
                PACKET => return Ok(Some(Item::Packet(read_packet(&body)?))),
                STATISTICS => {
                    if let Some(lost) = find(&body, 12, DROPPED)? {
                        let lost = lost.try_into().map_err(|_| invalid())?;
                        return Ok(Some(Item::Lost(u64::from_le_bytes(lost))));
                    }
                }
                SECTION if word(&body, 0)? != BYTE_ORDER => return Err(invalid()),
                _ => {}
            }
        }
    }
}

fn read_packet(body: &[u8]) -> io::Result<Packet> {
    let captured = word(body, 12)? as usize;
    let octets = body.get(20..20 + captured).ok_or_else(invalid)?;
    let octets = octets.get(COOKED_HEADER as usize..).ok_or_else(invalid)?;
    let options = 20 + captured.next_multiple_of(4);
    let comment = text(find(body, options, COMMENT)?.ok_or_else(invalid)?);
    let mut words = comment.split(' ');
    let (Some("slice"), Some(name), Some(id)) = (words.next(), words.next(), words.next()) else {
        return Err(invalid());
    };
    let flags = find(body, options, FLAGS)?.ok_or_else(invalid)?;
    Ok(Packet {
        name: name.to_owned(),
        id: id.parse().map_err(|_| invalid())?,
        way: match word(flags, 0)? & 3 {
            1 => Way::In,
            _ => Way::Out,
        },
        device: word(body, 0)?,
        time_ns: u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?),
        length: word(body, 16)?
            .checked_sub(COOKED_HEADER)
            .ok_or_else(invalid)?,
        octets: octets.to_vec(),
    })
}

/// The value of the first option of this code, of those that begin at `at`.
fn find(body: &[u8], mut at: usize, code: u16) -> io::Result<Option<&[u8]>> {
    while at + 4 <= body.len() {
        let head = word(body, at)?;
        let (this, length) = ((head & 0xffff) as usize, (head >> 16) as usize);
        let value = body.get(at + 4..at + 4 + length).ok_or_else(invalid)?;
        if this == usize::from(code) {
            return Ok(Some(value));
        }
        if this == 0 {
            break;
        }
        at += 4 + length.next_multiple_of(4);
    }
    Ok(None)
}

fn word(octets: &[u8], at: usize) -> io::Result<u32> {
    let word = octets.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_le_bytes).ok_or_else(invalid)
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn invalid() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "this is no stream of packets with owners",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_alpha() -> Packet {
        Packet {
            name: "alpha".into(),
            id: 16_386,
            way: Way::Out,
            device: 1,
            time_ns: 1_700_000_000_123_456_789,
            length: 1500,
            octets: vec![0x45, 0, 5, 0xdc, 7],
        }
    }

    fn stream(packets: &[Packet]) -> Vec<u8> {
        let mut octets = Vec::new();
        begin(&mut octets);
        device(&mut octets, "lo", 1536);
        device(&mut octets, "eth0", 1536);
        for p in packets {
            packet(
                &mut octets,
                &p.name,
                p.id,
                p.way,
                p.device,
                p.time_ns,
                p.length,
                &p.octets,
            );
        }
        lost(&mut octets, 5, 7);
        octets
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut other = of_alpha();
        (other.name, other.way, other.octets) = ("b".into(), Way::In, vec![0x60; 64]);
        let octets = stream(&[of_alpha(), other.clone()]);
        let mut reader = Reader::new(&octets[..]);
        let mut items = Vec::new();
        while let Some(item) = reader.next_item().unwrap() {
            items.push(item);
        }
        assert_eq!(
            items,
            [
                Item::Device("lo".into()),
                Item::Device("eth0".into()),
                Item::Packet(of_alpha()),
                Item::Packet(other),
                Item::Lost(7),
            ]
        );
    }

    #[test]
    fn the_octets_are_those_of_the_draft() {
        let mut octets = Vec::new();
        packet(
            &mut octets,
            "a",
            2,
            Way::Out,
            0,
            1 << 32 | 9,
            60,
            &[0x60, 2, 3],
        );
        let mut wanted = Vec::new();
        for word in [6_u32, 80, 0, 1, 9, 19, 76] {
            wanted.extend(word.to_le_bytes());
        }
        wanted.extend([0, 4, 0xff, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd]);
        wanted.extend([0x60, 2, 3, 0]);
        wanted.extend([1, 0, 9, 0]);
        wanted.extend(b"slice a 2\0\0\0");
        wanted.extend([2, 0, 4, 0, 2, 0, 0, 0]);
        wanted.extend([0; 4]);
        wanted.extend(80_u32.to_le_bytes());
        assert_eq!(octets, wanted);
    }

    #[test]
    fn no_octets_make_the_reader_panic() {
        let whole = stream(&[of_alpha()]);
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut octets = whole.clone();
                octets[at] = value;
                let mut reader = Reader::new(&octets[..]);
                while let Ok(Some(_)) = reader.next_item() {}
            }
            let mut reader = Reader::new(&whole[..at]);
            while let Ok(Some(_)) = reader.next_item() {}
        }
    }
}
