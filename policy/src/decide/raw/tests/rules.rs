//! The rules that ask more than the packet.

use super::super::{STARTED_NS, Sent, Started, icmp, port, started};
use super::write::*;
use crate::abi::{CLAIM, LIVE, Settings, SliceEntry, StartedFlow, TCP, UDP};
use crate::ids::SliceId;
use crate::verdict::Verdict;
use zerocopy::FromZeros;

const A: SliceId = SliceId(2);
const B: SliceId = SliceId(3);

fn entry(owner: SliceId, until_ns: u64) -> Option<StartedFlow> {
    Some(StartedFlow {
        owner,
        reserved: 0,
        until_ns,
    })
}

#[test]
fn a_started_flow_is_its_slices_until_it_is_over() {
    let now = 5 * STARTED_NS;
    for (name, entry, whose) in [
        ("nobody started it", None, Started::Free),
        ("its own", entry(A, now + 1), Started::Mine),
        ("its own, over", entry(A, now - 1), Started::Mine),
        ("another's", entry(B, now + 1), Started::Foreign),
        ("another's, over now", entry(B, now), Started::Free),
        ("another's, long over", entry(B, 0), Started::Free),
        (
            "a zeroed entry",
            Some(StartedFlow::new_zeroed()),
            Started::Free,
        ),
        (
            "the node's",
            entry(SliceId::NODE, now + 1),
            Started::Foreign,
        ),
    ] {
        assert_eq!(started(A, entry, now), whose, "{name}");
    }
}

#[test]
fn a_flow_of_the_rows_slice_before_is_not_the_slices() {
    let before = SliceId::new(1, 7).unwrap();
    let after = SliceId::new(2, 7).unwrap();
    assert_eq!(started(after, entry(before, 10), 9), Started::Foreign);
}

#[test]
fn ports_have_no_type_of_icmp() {
    for protocol in [TCP, UDP] {
        for kind in [0, 3, 5] {
            let packet = Sent {
                protocol,
                kind,
                port: PORT,
                peer_port: PEER_PORT,
                source: local(true),
                destination: peer(true),
            };
            assert_eq!(icmp(&packet), Verdict::Allow);
        }
    }
}

#[test]
fn a_slice_that_binds_reserved_ports_only_may_send_from_where_the_kernel_would() {
    let settings = Settings {
        ephemeral_low: 32_768,
        ephemeral_high: 60_999,
        ..Settings::new_zeroed()
    };
    let slice = |flags| SliceEntry {
        id: A,
        flags: LIVE | flags,
        ..SliceEntry::new_zeroed()
    };
    for (number, passes) in [
        (0, false),
        (1, false),
        (1023, false),
        (1024, false),
        (32_767, false),
        (32_768, true),
        (60_999, true),
        (61_000, false),
        (u16::MAX, false),
    ] {
        assert_eq!(port(&slice(0), &settings, number), passes, "{number}");
        // Who may bind it asks the rule of claims instead.
        assert!(!port(&slice(CLAIM), &settings, number), "{number}");
    }
}
