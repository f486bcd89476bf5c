//! Capabilities that a slice's processes may have inside their own user namespace.
//!
//! None of them means anything outside it: the slice's user ids are nobody on the node, and the
//! network namespace belongs to the node. What is not listed here no slice gets.

/// A capability by the name that `capability.h` gives it, without `CAP_` and in lower case, and
/// whether a slice has it by default.
const LIST: [(&str, bool); 21] = [
    ("chown", true),
    ("dac_override", true),
    ("dac_read_search", true),
    ("fowner", true),
    ("fsetid", true),
    ("kill", true),
    ("setgid", true),
    ("setuid", true),
    ("setpcap", true),
    ("net_bind_service", true),
    ("ipc_lock", false),
    ("ipc_owner", true),
    ("sys_chroot", true),
    ("sys_ptrace", true),
    ("sys_nice", true),
    ("lease", true),
    ("setfcap", true),
    ("audit_write", true),
    ("linux_immutable", false),
    // Mounts inside the slice's own root: much code of the kernel to attack.
    ("sys_admin", false),
    ("net_broadcast", false),
];

/// Every name that policy may list, in the order of the table.
pub const ALL: &[&str] = &names();

const fn names() -> [&'static str; LIST.len()] {
    let mut names = [""; LIST.len()];
    let mut at = 0;
    while at < LIST.len() {
        names[at] = LIST[at].0;
        at += 1;
    }
    names
}

/// What a slice has that does not say otherwise.
pub fn default() -> impl Iterator<Item = &'static str> {
    LIST.iter().filter(|(_, has)| *has).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_slice_gets_what_would_reach_the_node_or_undo_its_limits() {
        // sys_resource writes the limits of nested namespaces; the others act on the node.
        for never in [
            "sys_resource",
            "net_admin",
            "net_raw",
            "sys_module",
            "sys_rawio",
            "sys_time",
            "sys_boot",
            "mknod",
            "bpf",
            "perfmon",
            "syslog",
            "checkpoint_restore",
        ] {
            assert!(!ALL.contains(&never), "{never}");
        }
        assert!(default().all(|name| ALL.contains(&name)));
        assert!(!default().any(|name| name == "sys_admin"));
    }
}
