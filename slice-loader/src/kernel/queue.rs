//! The queue of a device (its root queueing discipline): fq, which lets packets
//! leave at the times that `pace` writes on them. Without it a time on a packet
//! means nothing.

use anyhow::{Context, bail};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use nix::errno::Errno;

use super::netlink::Netlink;
use crate::cli::exit::{Exit, Failure};

/// The discipline.
const FQ: &str = "fq";

/// `TCA_FQ_PLIMIT`, `TCA_FQ_FLOW_PLIMIT`, `TCA_FQ_HORIZON` of linux/pkt_sched.h.
const LIMIT: u16 = 1;
const FLOW_LIMIT: u16 = 2;
const HORIZON: u16 = 14;

/// Packets that it holds, in all and of one socket. `pace` bounds what waits in
/// time, so that these are never reached: 10 ms at 10 Gbit/s are 8,000 packets.
const PACKETS: u32 = 1_000_000;
/// How far ahead a packet may be stamped, microseconds; more than `pace` ever does.
const HORIZON_US: u32 = 10_000_000;

/// What a device's root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The discipline.
    pub kind: String,
    /// Whether somebody put it there: the kernel's own has no number.
    pub set: bool,
}

/// The root of a device; `None` where it has none, or is gone.
///
/// # Errors
/// The kernel refuses.
pub fn root(device: u32) -> anyhow::Result<Option<Root>> {
    let index = i32::try_from(device)?;
    let mut found = None;
    let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index));
    Netlink::open()?.list(question, |answer| {
        if let RouteNetlinkMessage::NewQueueDiscipline(message) = answer
            && message.header.index == index
            && message.header.parent == TcHandle::ROOT
        {
            let kind = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    TcAttribute::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            found = kind.map(|kind| Root {
                kind,
                set: message.header.handle.major != 0,
            });
        }
    })?;
    Ok(found)
}

/// Whether the root is such as `pace` needs.
#[must_use]
pub fn paces(root: &Root) -> bool {
    root.kind == FQ && root.set
}

/// Puts fq at the root of a device, in place of the kernel's own discipline or with
/// our limits where fq is there.
///
/// # Errors
/// The kernel has no fq, or refuses.
pub fn put(device: u32) -> anyhow::Result<()> {
    let mut message = TcMessage::with_index(i32::try_from(device)?);
    message.header.parent = TcHandle::ROOT;
    let option =
        |kind, value: u32| TcOption::Other(DefaultNla::new(kind, value.to_ne_bytes().to_vec()));
    message.attributes = vec![
        TcAttribute::Kind(FQ.to_owned()),
        TcAttribute::Options(vec![
            option(LIMIT, PACKETS),
            option(FLOW_LIMIT, PACKETS),
            option(HORIZON, HORIZON_US),
        ]),
    ];
    let message = RouteNetlinkMessage::NewQueueDiscipline(message);
    let done = Netlink::open()?.change(NLM_F_CREATE | NLM_F_REPLACE, vec![message], &[]);
    match done {
        Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::ENOENT) => {
            let message = "shape a link: the kernel has no queue discipline fq";
            bail!(
                Failure::new(Exit::Kernel, message)
                    .remedy("load the module sch_fq, or remove the links from node.toml")
            )
        }
        done => done.context("put fq at the root of the device"),
    }
}

/// Takes what `put` put there away: the kernel puts its own back.
///
/// # Errors
/// The kernel refuses; that the device or its root is gone is fine.
pub fn take_away(device: u32) -> anyhow::Result<()> {
    if !root(device)?.is_some_and(|root| paces(&root)) {
        return Ok(());
    }
    let mut message = TcMessage::with_index(i32::try_from(device)?);
    message.header.parent = TcHandle::ROOT;
    let message = RouteNetlinkMessage::DelQueueDiscipline(message);
    Netlink::open()?.change(
        0,
        vec![message],
        &[Errno::ENODEV, Errno::ENOENT, Errno::EINVAL],
    )
}
