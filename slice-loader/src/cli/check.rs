//! `slice check`: what the policy would give, or all that is wrong with it.
//! Changes nothing, needs neither root nor a running node.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use policy::config::{Errors, Report};
use serde::Serialize;

use super::exit::Exit;
use super::quantity;
use super::screen::Screen;
use super::table::{Cell, Column, Table, printable};
use crate::node;
use crate::report::admission::{Admission, PortLists, SliceSummary};

/// What stands where there is nothing.
const NONE: &str = "-";

/// The answer as JSON: one of the two.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer<'a> {
    /// The policy fits.
    Admission(&'a Admission),
    /// It does not.
    Errors(Vec<Report>),
}

pub(super) fn run(policy: &Path, screen: &Screen) -> anyhow::Result<ExitCode> {
    let admission = match node::examine(policy, |admitted| Admission::new(policy, admitted)) {
        Ok(admission) => admission,
        // That there are errors is an answer here, for programs too.
        Err(error) if screen.json() => {
            let errors = error.downcast::<Errors>()?;
            screen.print_json(&Answer::Errors(errors.reports()))?;
            return Ok(Exit::Policy.into());
        }
        Err(error) => return Err(error),
    };
    if screen.json() {
        screen.print_json(&Answer::Admission(&admission))?;
    } else {
        let mut out = screen.out();
        write_all(&mut out, &admission, screen.width())?;
        out.flush()?;
    }
    Ok(Exit::Ok.into())
}

/// The summary of a policy that fits.
///
/// # Errors
/// Those of the writer.
pub fn write_all(
    out: &mut impl Write,
    admission: &Admission,
    width: Option<usize>,
) -> io::Result<()> {
    let good = AnsiColor::Green.on_default().bold();
    let count = admission.slices.len();
    writeln!(
        out,
        "{good}ok:{good:#} the policy in {} fits this node: {count} of at most {} slices",
        admission.policy.display(),
        admission.max_slices,
    )?;
    let (cpu, memory) = (admission.cpu_millicores, admission.memory);
    let mut line = |head: &str, text: String| writeln!(out, "  {head:<12}{text}");
    line(
        "cpu",
        format!(
            "{} cores, {} promised",
            cores(cpu.given),
            cores(cpu.promised)
        ),
    )?;
    let bytes = quantity::bytes;
    line(
        "memory",
        format!(
            "{}, {} promised",
            bytes(memory.given),
            bytes(memory.promised)
        ),
    )?;
    let disk = admission.disk;
    line(
        "disk",
        format!("{}, {} promised", bytes(disk.given), bytes(disk.promised)),
    )?;
    line("processes", admission.processes.to_string())?;
    for (name, rate) in &admission.links {
        let rates = [rate.given, rate.promised].map(quantity::bit_rate);
        line(
            "link",
            format!("{name}: {}, {} promised", rates[0], rates[1]),
        )?;
    }
    line(
        "node ports",
        listed(ports(&admission.node_ports), "none reserved"),
    )?;
    if admission.slices.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    table(&admission.slices).write(out, width)
}

fn table(slices: &[SliceSummary]) -> Table {
    let mut table = Table::new([
        Column::left("SLICE", 0),
        Column::left("RESERVED PORTS", 0),
        Column::right("CLAIMS", 2),
        Column::right("SOCKETS", 3),
        Column::right("PROCESSES", 3),
        Column::right("CPU", 1),
        Column::right("CAP", 1),
        Column::right("SHARE", 4),
        Column::right("MEMORY", 1),
        Column::right("CAP", 1),
        Column::right("DISK", 4),
        Column::left("ADDRESSES", 4),
        Column::left("MAY", 4),
        Column::right("REFUSALS", 5),
        Column::left("DESCRIPTION", 6),
    ]);
    for slice in slices {
        let claims = if slice.claim {
            slice.claims.to_string()
        } else {
            NONE.to_owned()
        };
        table.row([
            Cell::new(slice.name.as_str(), Style::new().bold()),
            reserved(slice).into(),
            claims.into(),
            slice.sockets.to_string().into(),
            slice.processes.to_string().into(),
            cores(slice.cpu_floor_millicores).into(),
            slice
                .cpu_cap_millicores
                .map_or_else(|| NONE.into(), cores)
                .into(),
            slice.cpu_share.to_string().into(),
            quantity::bytes(slice.memory_floor).into(),
            slice
                .memory_cap
                .map_or_else(|| NONE.into(), quantity::bytes)
                .into(),
            slice
                .disk_cap
                .map_or_else(|| NONE.into(), quantity::bytes)
                .into(),
            slice.addresses.join(" ").into(),
            may(slice).into(),
            slice.refusals.to_string().into(),
            printable(slice.description.as_deref().unwrap_or_default()).into(),
        ]);
    }
    table
}

/// `tcp 80,443 udp 53 raw tcp 7000`.
fn reserved(slice: &SliceSummary) -> String {
    let raw = ports(&slice.raw_ports).into_iter();
    let mut lists = ports(&slice.ports);
    lists.extend(raw.map(|list| format!("raw {list}")));
    listed(lists, NONE)
}

/// `raw audit`: what few slices may; `(of ctl)`: the slice that made it.
fn may(slice: &SliceSummary) -> String {
    let raw = slice.raw.then_some("raw").into_iter();
    let mut words: Vec<&str> = raw.chain(slice.grants.iter().map(String::as_str)).collect();
    let made = slice.controller.as_ref().map(|by| format!("(of {by})"));
    words.extend(made.as_deref());
    words.join(" ")
}

/// `tcp 80,443` and `udp 53`, those that there are.
fn ports(ports: &PortLists) -> Vec<String> {
    [("tcp", &ports.tcp), ("udp", &ports.udp)]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(protocol, list)| format!("{protocol} {list}"))
        .collect()
}

fn listed(lists: Vec<String>, none: &str) -> String {
    if lists.is_empty() {
        none.to_owned()
    } else {
        lists.join(" ")
    }
}

/// Thousandths of a core without needless zeros.
fn cores(millicores: u64) -> String {
    let text = format!("{}.{:03}", millicores / 1000, millicores % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
