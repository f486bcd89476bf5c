//! What a decision answers: [`Verdict`], and the numbered [`Reason`] of a
//! denial.

/// Error numbers a denied call returns, by their names in `errno(3)`; the
/// values are those of every Linux architecture but alpha, mips, parisc and
/// sparc, which Slice does not support.
pub mod errno {
    #![allow(missing_docs, reason = "the names are those of errno(3)")]
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EAGAIN: i32 = 11;
    pub const EACCES: i32 = 13;
    pub const EINVAL: i32 = 22;
    pub const ENOPROTOOPT: i32 = 92;
    pub const EPROTONOSUPPORT: i32 = 93;
    pub const EAFNOSUPPORT: i32 = 97;
    pub const EADDRINUSE: i32 = 98;
    pub const EADDRNOTAVAIL: i32 = 99;
    pub const ENETDOWN: i32 = 100;
    pub const ENOBUFS: i32 = 105;
    pub const ECONNREFUSED: i32 = 111;
}

/// The answer to "may it?".
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not, and why.
    Deny(Reason),
}

impl Verdict {
    /// `Allow` where `condition` holds, else `Deny(reason)`.
    #[inline(always)]
    pub const fn allow_if(condition: bool, reason: Reason) -> Verdict {
        if condition {
            Verdict::Allow
        } else {
            Verdict::Deny(reason)
        }
    }

    /// Whether it is `Allow`.
    #[inline(always)]
    pub const fn is_allow(self) -> bool {
        matches!(self, Verdict::Allow)
    }
}

/// One row per reason: number, name, errno, name for machines, sentence.
macro_rules! reasons {
    ($($number:literal $name:ident $errno:ident $slug:literal $sentence:literal;)*) => {
        /// Why something was denied. The number is part of the ABI: it indexes
        /// the drop counters and stands in every event; numbers are only added.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Reason {
            $(#[doc = $sentence] $name = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The reason with this number, if there is one.
            pub const fn from_number(number: u8) -> Option<Reason> {
                match number { $($number => Some(Reason::$name),)* _ => None }
            }

            /// The error number the denied call returns. A packet dropped on
            /// its way out gives EPERM where the path can carry an error.
            #[inline(always)]
            pub const fn errno(self) -> i32 {
                match self { $(Reason::$name => errno::$errno,)* }
            }

            /// A stable lower-case name for metrics, JSON and filters.
            pub const fn slug(self) -> &'static str {
                match self { $(Reason::$name => $slug,)* }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Reason::$name => $sentence,)* }
            }
        }
    };
}

reasons! {
    0  NoPolicy         EPERM           "no_policy"          "The slice is not defined on this node, or was destroyed while the socket lived.";
    1  Family           EAFNOSUPPORT    "family"             "Slices have sockets of the families unix, inet, inet6 and netlink only, and have no modules of the kernel loaded.";
    2  Protocol         EPROTONOSUPPORT "protocol"           "Slices speak TCP, UDP and ICMP echo; this protocol has paths round the ownership of ports.";
    3  RawSocket        EPERM           "raw_socket"         "The slice's policy gives it no raw or packet sockets.";
    4  SocketLimit      ENOBUFS         "socket_limit"       "The slice has as many sockets open as its policy allows.";
    5  PortReserved     EADDRINUSE      "port_reserved"      "The port is reserved for another slice.";
    6  PortNode         EACCES          "port_node"          "The port is reserved for the node.";
    7  PortClaimed      EADDRINUSE      "port_claimed"       "Sockets of another owner hold the port.";
    8  PortPrivileged   EACCES          "port_privileged"    "Ports below 1024 are bound by the slice they are reserved for only.";
    9  PortLoopback     EADDRINUSE      "port_loopback"      "The port lies in the range kept for the translation of loopback ports.";
    10 ClaimForbidden   EACCES          "claim_forbidden"    "The slice's policy lets it bind reserved ports only.";
    11 ClaimLimit       EADDRINUSE      "claim_limit"        "The slice has claimed as many ports as its policy allows.";
    12 AddressForeign   EADDRNOTAVAIL   "address_foreign"    "The address is not one that the slice may use.";
    13 SourceForeign    EPERM           "source_foreign"     "The packet's source address is not one that the slice may use.";
    14 Destination      EACCES          "destination"        "The node's owner refuses this destination.";
    15 Option           EPERM           "option"             "The socket option would go round the rules for addresses.";
    16 Header           EPERM           "header"             "The packet's headers do not tell whose it is (options, extension headers, unknown protocol, too short).";
    17 ReceiveForeign   EPERM           "receive_foreign"    "The packet arrived for an address or port of another owner.";
    18 Netlink          EPROTONOSUPPORT "netlink"            "Slices use the netlink protocols route, generic, uevent and socket diagnostics only.";
    19 PortForeign      EPERM           "port_foreign"       "The packet's source port is held by another owner.";
    20 ProcNet          EACCES          "proc_net"           "The file lists sockets of the whole node, those of other owners too.";
    21 SocketDiagnostics EPERM          "socket_diagnostics" "Socket diagnostics tell of the sockets of all owners.";
    22 AbstractForeign  ECONNREFUSED    "abstract_foreign"   "The abstract unix socket is another owner's.";
    23 LoopbackForeign  ECONNREFUSED    "loopback_foreign"   "Behind this loopback address or port is the node or another slice.";
    24 LoopbackLimit    EADDRINUSE      "loopback_limit"     "The slice has bound as many loopback ports as there are.";
    25 ConnectionLimit EADDRNOTAVAIL   "connection_limit"   "The slice has started as many connections that are not over as its policy allows.";
    26 ConnectionRate  EADDRNOTAVAIL   "connection_rate"    "The slice starts connections faster than its policy allows.";
    27 IcmpType        EPERM           "icmp_type"          "Slices send echo, timestamp, information and address mask messages of ICMP only, not errors and redirects.";
    28 EchoForeign     EPERM           "echo_foreign"       "The ICMP identifier is another owner's towards this peer.";
    29 Frame           EPERM           "frame"              "The frame is not IPv4 or IPv6 from the device's own address.";
    30 Device          ENETDOWN        "device"             "Packet sockets send on devices only whose frames are looked at.";
    31 Audit           EPERM           "audit"              "The slice's policy does not grant it the packets of all slices.";
}

/// Rows of the drop counters per slice. More than there are reasons, so that
/// new ones fit without a change of the map.
pub const REASON_ROWS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gaps_and_fit_the_counters() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
        }
        assert!(Reason::ALL.len() <= REASON_ROWS as usize);
        assert_eq!(
            Reason::from_number(u8::try_from(Reason::ALL.len()).unwrap()),
            None
        );
    }

    #[test]
    fn each_reason_has_its_own_slug_and_a_sentence() {
        let mut slugs: Vec<_> = Reason::ALL.iter().map(|r| r.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.sentence().ends_with('.'), "{reason:?}");
        }
    }

    #[test]
    fn zero_is_a_denial() {
        assert_eq!(Reason::from_number(0), Some(Reason::NoPolicy));
    }
}
