//! The fields of kernel structures that programs read where no helper tells
//! what they need.
//!
//! Structures differ from kernel to kernel, and Rust has no relocations for
//! them: the loader takes the offsets from the running kernel's type
//! information and hands them to the programs as one constant, `OFFSETS`,
//! indexed by [`Field`]. One row here is all that a new field needs.

macro_rules! fields {
    ($($name:ident $structure:literal $path:literal;)*) => {
        /// A field; its number indexes `OFFSETS`.
        #[repr(usize)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Field {
            $(#[doc = concat!("`", $structure, ".", $path, "`")] $name,)*
        }

        impl Field {
            /// Every field, in the order of their numbers.
            pub const ALL: &'static [Field] = &[$(Field::$name,)*];

            /// The structure it is in.
            pub const fn structure(self) -> &'static str {
                match self { $(Field::$name => $structure,)* }
            }

            /// Where in the structure: names of members, joined by dots;
            /// members of unnamed unions and structures count as the outer's.
            pub const fn path(self) -> &'static str {
                match self { $(Field::$name => $path,)* }
            }
        }
    };
}

fields! {
    FileInode         "file"               "f_inode";
    InodeSuper        "inode"              "i_sb";
    InodeNumber       "inode"              "i_ino";
    SuperMagic        "super_block"        "s_magic";
    ProcInode         "proc_inode"         "vfs_inode";
    ProcEntry         "proc_inode"         "pde";
    EntryName         "proc_dir_entry"     "name";
    EntryParent       "proc_dir_entry"     "parent";
    EntryData         "proc_dir_entry"     "data";
    NetCookie         "net"                "net_cookie";
    SocketSock        "socket"             "sk";
    SocketAlloc       "socket_alloc"       "socket";
    SocketInode       "socket_alloc"       "vfs_inode";
    SockFamily        "sock_common"        "skc_family";
    SockState         "sock_common"        "skc_state";
    SockPort          "sock_common"        "skc_num";
    SockPeerPort      "sock_common"        "skc_dport";
    SockLocal4        "sock_common"        "skc_rcv_saddr";
    SockPeer4         "sock_common"        "skc_daddr";
    SockLocal6        "sock_common"        "skc_v6_rcv_saddr";
    SockPeer6         "sock_common"        "skc_v6_daddr";
    SockNet           "sock_common"        "skc_net.net";
    RequestListener   "sock_common"        "skc_listener";
    SockCgroup        "sock"               "sk_cgrp_data.cgroup";
    MessageName       "msghdr"             "msg_name";
    MessageNameLength "msghdr"             "msg_namelen";
    PacketDevice      "packet_sock"        "ifindex";
    SockProtocol      "sock"               "sk_protocol";
    SockType          "sock"               "sk_type";
    SockSocket        "sock"               "sk_socket";
    SockBacklog       "sock"               "sk_ack_backlog";
    SockReceiveMemory "sock"               "sk_backlog.rmem_alloc";
    SockSendMemory    "sock"               "sk_wmem_alloc";
    TcpWritten        "tcp_sock"           "write_seq";
    TcpAcknowledged   "tcp_sock"           "snd_una";
    TcpReceived       "tcp_sock"           "rcv_nxt";
    TcpCopied         "tcp_sock"           "copied_seq";
    TimeWaitState     "inet_timewait_sock" "tw_substate";
    CgroupLevel       "cgroup"             "level";
    CgroupAncestors   "cgroup"             "ancestors";
    CgroupNode        "cgroup"             "kn";
    CgroupDying       "cgroup"             "nr_dying_descendants";
    TaskCgroups       "task_struct"        "cgroups";
    SetCgroup         "css_set"            "dfl_cgrp";
    NodeId            "kernfs_node"        "id";
    UnixAddress       "unix_sock"          "addr";
    UnixNameLength    "unix_address"       "len";
    UnixName          "unix_address"       "name";
}

/// How many there are.
pub const COUNT: usize = Field::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_its_own_number_and_place() {
        for (number, field) in Field::ALL.iter().enumerate() {
            assert_eq!(*field as usize, number);
            let places = Field::ALL.iter().map(|f| (f.structure(), f.path()));
            let same = places.filter(|place| *place == (field.structure(), field.path()));
            assert_eq!(same.count(), 1, "{field:?}");
        }
    }
}
