//! The command line: what may be typed, and one file per command.
//!
//! Completions, man pages and `docs/cli.md` come from the definitions here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::context::login;
use crate::report::ports::Protocol;

pub mod check;
mod client;
mod control;
mod daemon;
mod doctor;
mod down;
pub mod events;
mod exec;
pub mod exit;
pub mod flows;
mod image;
mod layer;
mod life;
pub mod link;
mod live;
mod manual;
pub mod ports;
mod ps;
pub mod quantity;
mod reload;
mod run;
pub mod screen;
mod sniff;
pub mod status;
pub mod table;
mod top;
mod trace;
mod up;

use exit::Exit;
use life::Life;
use screen::{Color, Format, Screen};
use top::TopArgs;

/// Slices of one machine: ports, addresses and resources with an owner.
#[derive(Parser, Debug)]
#[command(name = "slice", version, propagate_version = true, after_long_help = exit_codes())]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Args, Debug)]
struct Global {
    /// The directory with node.toml and slices/*.toml.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/etc/slice",
        env = "SLICE_POLICY",
        help_heading = "Global options"
    )]
    policy: PathBuf,
    /// Text for people, or JSON for programs.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Global options"
    )]
    output: Format,
    /// When to colour text; `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        help_heading = "Global options"
    )]
    color: Color,
    /// Say only what was asked for and what went wrong.
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    quiet: bool,
    /// Say more: all reasons, their sentences; twice, what the daemon does.
    #[arg(
        short,
        long,
        global = true,
        action = clap::ArgAction::Count,
        help_heading = "Global options"
    )]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Read the policy and tell what it would give, or all that is wrong with it.
    ///
    /// Changes nothing and needs neither root nor a running node.
    Check,
    /// Tell what of the kernel and the system is there and what is missing.
    Doctor,
    /// Put the policy in force. Twice is once; what runs is adopted.
    Up,
    /// Apply what changed in the policy, as a whole or not at all.
    Reload,
    /// Take everything back: programs, cgroups, settings. Ends what runs in the slices.
    Down,
    /// Tell what each owner uses, sends, receives and was denied.
    Status(StatusArgs),
    /// Tell whose each port is.
    Ports(PortsArgs),
    /// Tell who sent what to whom: whose was this packet?
    Flows(FlowsArgs),
    /// Tell what each owner may send on the links, and does.
    Link(LinkArgs),
    /// Show denials as the daemon saw them.
    Events(EventsArgs),
    /// Tell what is decided for a slice as it is decided, each verdict with its reason.
    ///
    /// Until ctrl-C. Every denial, and what bind, connect and listen were allowed, up to 1,000 in a
    /// second; how many were left out is told.
    Trace {
        /// The slice; also `node`.
        #[arg(value_name = "SLICE")]
        slice: String,
    },
    /// Write the packets of all slices with their owners as pcapng.
    Sniff(SniffArgs),
    /// Tell what slices changed of slices that they made.
    Control {
        /// Most lines to show; the latest are.
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
    },
    /// Start slices that have a context.
    Start(LifeArgs),
    /// End everything in slices: ask first, kill what has not ended in time.
    Stop(LifeArgs),
    /// Stop slices and start them again.
    Restart(LifeArgs),
    /// Let everything in slices stand still.
    Freeze(LifeArgs),
    /// Let what stands still go on.
    Thaw(LifeArgs),
    /// End slices and remove all that they have on disk.
    ///
    /// They are as new when they are started again. To take a slice off the node, remove its
    /// policy file, `slice reload`, then destroy what it left.
    Destroy(DestroyArgs),
    /// Run a command in a slice's context.
    ///
    /// Ends with the command's own exit code, 128 + N if signal N ended it, 127 if there is no
    /// such command, 126 if it cannot be run, and 125 if the slice cannot be entered.
    Exec(ExecArgs),
    /// Run a shell in a slice's context, as a login does.
    Enter(EnterArgs),
    /// List the processes of slices.
    Ps {
        /// Only of this slice.
        #[arg(value_name = "SLICE")]
        slice: Option<String>,
    },
    /// Show what each owner uses now, again and again.
    Top(TopArgs),
    /// Run a command under a slice's limits, with the node's files.
    ///
    /// For slices without a context.
    ///
    /// Ends with the command's own exit code, 128 + N if signal N ended it, 127 if there is no
    /// such command, 126 if it cannot be run, and 125 if the slice cannot be entered.
    Run(RunArgs),
    /// Keep the reference images that the roots of slices begin with.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Keep the node's knowledge fresh and serve its status to others.
    ///
    /// Runs in the foreground. The slices' rules hold without it.
    Daemon(DaemonArgs),
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write the man pages into a directory.
    Man {
        /// The directory; made if it is not there.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Make or remove a slice's files without starting it. For tests of the disk.
    #[command(hide = true)]
    Layer {
        /// The slice.
        slice: String,
        /// Remove them.
        #[arg(long)]
        remove: bool,
    },
    /// Be the first process of a slice. For `slice start`.
    #[command(hide = true)]
    Init,
    /// Make raw sockets for a slice. For `slice start`.
    #[command(hide = true)]
    Broker {
        /// Number of the slice's user namespace, where it may make others.
        userns: Option<u64>,
        /// The slice's id, where it may see the packets of all slices.
        #[arg(long)]
        audit: Option<u32>,
    },
    /// Parse what slices ask of the node's status. For `slice daemon`.
    #[command(hide = true)]
    StatusFront,
    /// Change a slice that a slice made. For the daemon.
    #[command(hide = true)]
    ControlDo,
    /// Put the session that PAM opens into its slice. For pam_exec(8).
    #[command(hide = true)]
    LoginOpen,
    /// Keep a cgroup from being empty. For the node's own unit.
    #[command(hide = true)]
    Hold {
        /// The cgroup's directory.
        leaf: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Only this slice; also `node` and `unattributed`.
    #[arg(value_name = "SLICE")]
    pub(crate) slice: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct PortsArgs {
    /// Only ports of this slice; also `node`.
    #[arg(long, value_name = "NAME")]
    pub(crate) slice: Option<String>,
    /// Only ports of this protocol.
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<Protocol>,
}

#[derive(Args, Debug)]
pub(crate) struct FlowsArgs {
    /// Only with a peer of this address or network.
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub(crate) peer: Option<String>,
    /// Only with this port of the peer.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Only with this port on the node; of an ICMP echo, its identifier.
    #[arg(long, value_name = "PORT")]
    pub(crate) local_port: Option<u16>,
    /// Only of this slice, one that was destroyed included; also `node` and `unattributed`.
    #[arg(long, value_name = "NAME")]
    pub(crate) slice: Option<String>,
    /// Only of this protocol: `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub(crate) protocol: Option<u8>,
    /// Only what went on at this time or later: 2026-01-31T12:00:00Z, @1769860800 (seconds since
    /// 1970), or how long ago, as 2h.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only what went on at this time or earlier.
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Most rows to show; the latest are.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub(crate) limit: u32,
}

#[derive(Args, Debug)]
pub(crate) struct LinkArgs {
    /// Again and again, who sends most first; on a terminal until a key ends it.
    #[arg(short, long)]
    pub(crate) live: bool,
    /// Seconds between two readings of the live view.
    #[arg(short, long, requires = "live", value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) interval: u32,
    /// End after so many readings; one where the output is no terminal.
    #[arg(short = 'n', long, requires = "live", value_name = "COUNT")]
    pub(crate) count: Option<u32>,
    /// What went out in the last hour, in steps of ten seconds; the daemon keeps it.
    #[arg(long, conflicts_with = "live")]
    pub(crate) history: bool,
    /// Only since this time of the last hour: how long ago, as 10m, or 2026-01-31T12:00:00Z.
    #[arg(long, requires = "history", value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Most owners of a link to tell apart; those who sent most are, the others together.
    #[arg(long, requires = "history", value_name = "COUNT")]
    pub(crate) limit: Option<usize>,
}

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Go on showing events as they happen.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only events of this slice; also `node`.
    #[arg(long, value_name = "NAME")]
    pub(crate) slice: Option<String>,
    /// Only events of this reason, by its short name (`port_reserved`).
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    pub(crate) reason: Option<String>,
    /// Only events after this one: the field `cursor` of `-o json`.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<crate::report::event::Cursor>,
}

#[derive(Args, Debug)]
pub(crate) struct SniffArgs {
    /// Only packets of this slice.
    #[arg(long, value_name = "NAME")]
    pub(crate) slice: Option<String>,
    /// The file to write; `-` is the standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) write: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The slice.
    #[arg(value_name = "SLICE")]
    pub(crate) slice: String,
    /// The command and its arguments.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct LifeArgs {
    /// The slices.
    #[arg(value_name = "SLICE", required_unless_present = "all")]
    pub(crate) slices: Vec<String>,
    /// Every slice that has a context.
    #[arg(long, conflicts_with = "slices")]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DestroyArgs {
    #[command(flatten)]
    pub(crate) which: LifeArgs,
    /// That all is lost is meant.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// On a terminal of the slice's.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// As this user of the slice.
    #[arg(short, long, value_name = "USER", default_value = "root")]
    pub(crate) user: String,
    /// The slice.
    #[arg(value_name = "SLICE")]
    pub(crate) slice: String,
    /// The command and its arguments.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct EnterArgs {
    /// As this user of the slice.
    #[arg(short, long, value_name = "USER", default_value = "root")]
    pub(crate) user: String,
    /// The slice.
    #[arg(value_name = "SLICE")]
    pub(crate) slice: String,
}

#[derive(Args, Debug)]
pub(crate) struct DaemonArgs {
    /// Denials kept for `slice events`.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) keep: u32,
}

/// Parses the command line, runs the command and picks the exit code.
#[must_use]
pub fn main() -> ExitCode {
    // As the shell of an account it understands what shells do.
    let mut words = std::env::args_os();
    if words.next().is_some_and(|name| login::is_shell(&name)) {
        return ExitCode::from(login::shell(&words.collect::<Vec<_>>()));
    }
    let cli = Cli::parse();
    let screen = Screen {
        format: cli.global.output,
        color: cli.global.color,
        verbosity: if cli.global.quiet {
            -1
        } else {
            i8::try_from(cli.global.verbose).unwrap_or(i8::MAX)
        },
    };
    match cli.run(&screen) {
        Ok(code) => code,
        Err(error) => {
            let exit = exit::report(&error, &screen);
            // Every other status may be the program's own, as with env(1).
            match cli.command {
                Command::Run(_) | Command::Exec(_) | Command::Enter(_) => {
                    ExitCode::from(run::OWN_FAILURE)
                }
                _ => exit.into(),
            }
        }
    }
}

impl Cli {
    fn run(&self, screen: &Screen) -> anyhow::Result<ExitCode> {
        let (policy, json) = (&self.global.policy, screen.json());
        match &self.command {
            Command::Check => check::run(policy, screen),
            Command::Doctor => doctor::run(json),
            Command::Up => up::run(&absolute(policy)?, json),
            Command::Reload => reload::run(&absolute(policy)?, json),
            Command::Down => down::run(json),
            Command::Status(args) => status::run(args, screen),
            Command::Ports(args) => ports::run(args, screen),
            Command::Flows(args) => flows::run(args, screen),
            Command::Link(args) => link::run(args, screen),
            Command::Events(args) => events::run(args, screen),
            Command::Trace { slice } => trace::run(slice, screen),
            Command::Sniff(args) => sniff::run(args),
            Command::Control { limit } => control::run(*limit, screen),
            Command::Start(args) => life::run(Life::Start, args, screen),
            Command::Stop(args) => life::run(Life::Stop, args, screen),
            Command::Restart(args) => life::run(Life::Restart, args, screen),
            Command::Freeze(args) => life::run(Life::Freeze, args, screen),
            Command::Thaw(args) => life::run(Life::Thaw, args, screen),
            Command::Destroy(args) => life::destroy(args, screen),
            Command::Exec(args) => exec::exec(&args.slice, &args.command, &args.user, args.tty),
            Command::Enter(args) => exec::enter(&args.slice, &args.user),
            Command::Ps { slice } => ps::run(slice.as_deref(), screen),
            Command::Top(args) => top::run(args, screen),
            Command::Run(args) => run::run(&args.slice, &args.command),
            Command::Image(command) => image::run(command, screen),
            Command::Daemon(args) => daemon::run(args, &absolute(policy)?, screen),
            Command::Completions { shell } => manual::completions(*shell),
            Command::Man { directory } => manual::pages(directory, screen),
            Command::Layer { slice, remove } => layer::run(slice, *remove),
            Command::Init => exec::init(),
            Command::Broker { userns, audit } => exec::broker(*userns, *audit),
            Command::StatusFront => daemon::status_front(),
            Command::ControlDo => control::have_done(screen),
            Command::LoginOpen => exec::login_open(),
            Command::Hold { leaf } => run::hold(leaf),
        }
    }
}

/// A path that means the same when the node remembers it.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("find the directory {}", path.display()))
}

/// The definition of the whole command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The exit codes as they stand at the end of `slice --help` and in the man page.
fn exit_codes() -> String {
    let rows = Exit::ALL
        .iter()
        .map(|exit| format!("  {}  {}", *exit as u8, exit.meaning()));
    let rows: Vec<String> = rows.collect();
    format!("Exit codes:\n{}", rows.join("\n"))
}

fn protocol(text: &str) -> Result<u8, String> {
    crate::report::flows::protocol_number(text)
        .ok_or_else(|| String::from("write tcp, udp, icmp, icmpv6 or the protocol's number"))
}

fn reasons() -> clap::builder::PossibleValuesParser {
    policy::Reason::ALL
        .iter()
        .map(|reason| clap::builder::PossibleValue::new(reason.slug()).help(reason.sentence()))
        .collect::<Vec<_>>()
        .into()
}
