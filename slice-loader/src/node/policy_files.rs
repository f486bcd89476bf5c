//! From the policy directory to the plan of what shall be in force. Nothing
//! here changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::bail;
use policy::abi::{RESERVED_SLICE, TCP, UDP, port_index};
use policy::admission::{self, Admitted, Facts, admit};
use policy::compile::{Plan, compile};
use policy::config::{self, Config, Errors, PortRange, PortSet, SliceName};
use policy::ids::SliceId;
use policy::ledger::Ledger;
use policy::lending::{Joined, LeftOut, join};

use super::found::{self, Holding};
use super::managed::{self, Made};
use super::record::{Record, SliceRecord};
use super::{autobind, facts, ids};
use crate::cli::exit::{Exit, Failure};
use crate::context::account::Login;
use crate::context::disk::Disk;
use crate::context::holder::Holder;
use crate::context::io;
use crate::context::start::Recipe;
use crate::flows::Kept;
use crate::report::policies::Policies;

/// What shall be in force.
#[derive(Debug)]
pub struct Wanted {
    /// Everything to write.
    pub plan: Plan,
    /// The slices, by name.
    pub slices: BTreeMap<String, SliceRecord>,
    /// How many user ids each has.
    pub uids_per_slice: u32,
    /// How those that have a context are started.
    pub contexts: BTreeMap<String, Recipe>,
    /// Who logs in to those that have an account.
    pub logins: BTreeMap<String, Login>,
    /// The ids, the new ones included.
    pub ledger: Ledger,
    /// Rows of the per-slice maps.
    pub rows: u32,
    /// Addresses of devices that are nobody's.
    pub exclude: Vec<String>,
    /// What is kept of who sent what to whom.
    pub flows: Kept,
    /// The same as slices are told of it; its edition is not set.
    pub policies: Policies,
    /// Port of the status page.
    pub page: Option<u16>,
    /// The slices that slices made, with the names of these.
    pub controllers: BTreeMap<String, String>,
    /// Those of them that are not in force.
    pub left_out: Vec<LeftOut>,
    /// What the owner should know, and may have meant so.
    pub warnings: Vec<String>,
}

/// Reads a policy directory.
///
/// # Errors
/// [`policy::config::Errors`], all of them; or the account database cannot be
/// asked.
pub fn read(directory: &Path) -> anyhow::Result<Config> {
    let known = facts::known_names(directory)?;
    let me = nix::unistd::geteuid().as_raw();
    Ok(config::load(directory, &|name| known.contains(name), me)?)
}

/// Admits and compiles.
///
/// `reserved_ports` is what the machine had before the first `up`; `held` are
/// the ports that sockets outside the slices hold now; `busy` are rows that
/// sockets of destroyed slices still refer to. `made` are slices that slices made.
///
/// # Errors
/// [`policy::config::Errors`] where it does not fit; a [`Failure`] where a
/// process of the node holds a port that the policy gives to a slice.
pub fn want(
    owners: &Config,
    made: &Made,
    ledger: &Ledger,
    reserved_ports: PortSet,
    held: &BTreeSet<Holding>,
    busy: &BTreeSet<u32>,
) -> anyhow::Result<Wanted> {
    let rows = admission::rows(owners);
    let facts = facts(reserved_ports, held)?;
    let Fitted {
        joined: Joined { config, left_out },
        ledger,
    } = fit(owners, made, ledger, busy, &facts)?;
    let config = &config;
    let admitted = admit(config, &facts, &ledger)?;
    let plan = compile(&admitted);
    let slices = admitted
        .slices()
        .map(|(id, slice)| {
            let (uid, _) = admitted.uids(id);
            (slice.name.value.to_string(), SliceRecord { id: id.0, uid })
        })
        .collect();
    let mut warnings = collisions(&plan, &slices, held)?;
    warnings.extend(made.warnings().iter().cloned());
    warnings.extend(left_out.iter().map(managed::sentence));
    let made_by = |slice: &config::Slice| {
        let controller = slice.controller.as_ref()?;
        Some((slice.name.value.to_string(), controller.to_string()))
    };
    let exclude = config
        .node
        .exclude
        .iter()
        .map(|prefix| prefix.value.to_string())
        .collect();
    Ok(Wanted {
        plan,
        slices,
        uids_per_slice: config.node.uids_per_slice.value,
        contexts: contexts(config),
        logins: logins(config),
        ledger,
        rows,
        exclude,
        flows: Kept {
            seconds: config.node.flows.keep.0.div_ceil(1_000_000_000),
            bytes: config.node.flows.cap.0,
        },
        policies: Policies::new(0, config),
        page: config.node.page,
        controllers: config.slices.iter().filter_map(made_by).collect(),
        left_out,
        warnings,
    })
}

/// A policy with the slices that were made as far as they fit, and the ids of all.
struct Fitted {
    joined: Joined,
    ledger: Ledger,
}

/// Adds to the owner's policy the slices that slices made. Where the owner's fits and all together do
/// not, controllers are left out with all theirs: none of them keeps the owner from anything, or
/// another.
fn fit(
    owners: &Config,
    made: &Made,
    ledger: &Ledger,
    busy: &BTreeSet<u32>,
    facts: &Facts,
) -> anyhow::Result<Fitted> {
    let lent = made.lent();
    let attempt = |without: &BTreeMap<SliceName, String>| {
        let mut joined = join(owners, &lent, without);
        joined.left_out.extend(made.known().iter().cloned());
        // Who is left out keeps its id, and with it its files.
        let absent = joined.left_out.iter().filter(|out| !out.displaced);
        let names = joined.config.slices.iter().map(|slice| &slice.name.value);
        let names = names.chain(absent.map(|out| &out.name));
        let ledger = ledger.assign(names, admission::rows(owners), busy);
        let result = admit(&joined.config, facts, &ledger).map(drop);
        result.map(|()| Fitted { joined, ledger })
    };
    let errors = match attempt(&BTreeMap::new()) {
        Ok(fitted) => return Ok(fitted),
        Err(errors) if lent.is_empty() => return Err(errors.into()),
        Err(errors) => errors,
    };
    let first = |errors: &Errors| {
        let complaint = errors.complaints().first();
        complaint.map_or_else(String::new, |complaint| complaint.message.clone())
    };
    let why = first(&errors);
    let controllers = lent.iter().map(|one| (one.controller.clone(), why.clone()));
    let mut without: BTreeMap<SliceName, String> = controllers.collect();
    let mut fitted = attempt(&without)?;
    for controller in without.clone().into_keys() {
        let mut fewer = without.clone();
        fewer.remove(&controller);
        match attempt(&fewer) {
            Ok(more) => (fitted, without) = (more, fewer),
            Err(errors) => {
                without.insert(controller, first(&errors));
            }
        }
    }
    Ok(fitted)
}

/// How the slices that have a context are started.
fn contexts(config: &Config) -> BTreeMap<String, Recipe> {
    let recipe = |context: &config::Context, raw: bool, grants: config::Grants| Recipe {
        image: context.image.value.to_string(),
        hostname: context.hostname.clone(),
        autostart: context.autostart,
        nested: context.nested,
        stop_after_ms: u32::try_from(context.stop_after.0 / 1_000_000).unwrap_or(u32::MAX),
        capabilities: context
            .capabilities
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        raw,
        audit: grants.audit,
        status: grants.status,
        control: grants.control,
    };
    let with = |slice: &config::Slice| {
        let context = slice.context.as_ref()?;
        let raw = slice.raw == config::Raw::Safe;
        Some((
            slice.name.value.to_string(),
            recipe(context, raw, slice.grants),
        ))
    };
    config.slices.iter().filter_map(with).collect()
}

/// Who logs in to the slices that have an account.
fn logins(config: &Config) -> BTreeMap<String, Login> {
    let lines = |keys: &[config::PublicKey]| keys.iter().map(ToString::to_string).collect();
    let with = |slice: &config::Slice| {
        let login = Login {
            keys: lines(&slice.login.keys),
            authorities: lines(&slice.login.authorities),
        };
        (login != Login::default()).then(|| (slice.name.value.to_string(), login))
    };
    config.slices.iter().filter_map(with).collect()
}

/// Reads a policy directory and admits it, without lock, rights or changes:
/// whether the node would come up with it. `look` gets the answer.
///
/// # Errors
/// As `read` and `want`, but for ports that are held.
pub fn examine<T>(directory: &Path, look: impl FnOnce(&Admitted<'_>) -> T) -> anyhow::Result<T> {
    let config = read(directory)?;
    let made = Made::load()?.without_displaced(&config);
    let reserved_ports = match Record::load()? {
        Some(record) => autobind::parse(&record.reserved_ports_before)?,
        None => autobind::read()?,
    };
    let facts = facts(reserved_ports, &BTreeSet::new())?;
    let Fitted { joined, ledger } = fit(&config, &made, &ids::load()?, &BTreeSet::new(), &facts)?;
    Ok(look(&admit(&joined.config, &facts, &ledger)?))
}

fn facts(reserved_ports: PortSet, held: &BTreeSet<Holding>) -> anyhow::Result<Facts> {
    Ok(Facts {
        cpus: facts::cpus()?,
        memory: facts::memory()?,
        page_size: facts::page_size(),
        pid_max: facts::pid_max()?,
        addresses: facts::addresses()?,
        ephemeral: facts::ephemeral()?,
        reserved_ports,
        found_tcp: ports(held, TCP)?,
        found_udp: ports(held, UDP)?,
        disk: Disk::open()?.fact()?,
        io: io::fact(),
        taken_uids: facts::taken_uids()?,
        node_netns: facts::netns()?,
        slices_level: Holder::expected().slices_level()?,
    })
}

fn ports(held: &BTreeSet<Holding>, protocol: u8) -> anyhow::Result<PortSet> {
    let of_protocol = held
        .iter()
        .filter(|held| held.protocol == protocol && held.port != 0 && !held.claimed);
    let single = of_protocol.map(|held| PortRange::parse(&held.port.to_string()));
    Ok(single.collect::<Result<PortSet, _>>()?)
}

/// A port of a slice that a process of the node holds now is refused: the
/// slice could not bind it, and the process, restarted, could not bind it
/// again, which may be the owner's sshd. On a loopback address it is only said.
fn collisions(
    plan: &Plan,
    slices: &BTreeMap<String, SliceRecord>,
    held: &BTreeSet<Holding>,
) -> anyhow::Result<Vec<String>> {
    let owner = |holding: &Holding| {
        let reserved = plan
            .reserved
            .get(&port_index(holding.protocol, holding.port)?)?;
        (reserved.kind == RESERVED_SLICE).then_some(reserved.owner)
    };
    let colliding: Vec<_> = held
        .iter()
        .filter_map(|holding| Some((holding, owner(holding)?)))
        .collect();
    if colliding.is_empty() {
        return Ok(Vec::new());
    }
    let processes = found::processes(&colliding.iter().map(|(holding, _)| holding.inode).collect());
    let name = |id: SliceId| {
        slices
            .iter()
            .find_map(|(name, slice)| (slice.id() == id).then_some(name.as_str()))
    };
    let (mut refused, mut warnings) = (BTreeSet::new(), BTreeSet::new());
    for (holding, id) in colliding {
        let sentence = format!(
            "{} port {} is reserved for slice {} and held by {}",
            if holding.protocol == TCP {
                "TCP"
            } else {
                "UDP"
            },
            holding.port,
            name(id).unwrap_or("?"),
            processes.get(&holding.inode).map_or(
                "the kernel or a process that cannot be seen",
                String::as_str
            ),
        );
        if holding.loopback {
            warnings.insert(format!(
                "{sentence} on a loopback address: the slice cannot bind it on all addresses"
            ));
        } else {
            refused.insert(sentence);
        }
    }
    if !refused.is_empty() {
        let message = refused.into_iter().collect::<Vec<_>>().join("; ");
        bail!(Failure::new(Exit::Policy, message).remedy(
            "stop the process, or take the port out of the slice's policy, or reserve it for the node in node.toml"
        ));
    }
    Ok(warnings.into_iter().collect())
}
