//! Slices that a slice makes.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{ask, served};
use crate::image;
use crate::node::Node;
use crate::runner::{Test, test};
use crate::site::{Running, SLICES, Site, until};

pub mod killed; // who makes a change, at each step

/// Where changes are written down.
const LOG: &str = "/var/lib/slice/control.log";

pub const TEST: Test = test(
    "a_management_slice_makes_slices_out_of_what_it_may_lend_and_takes_them_back",
    a_management_slice_makes_slices,
)
.once()
.within(120);

const CONTROLLER: &str = r#"
role = "management"
grants = ["control"]
[control]
slices = 2
prefix = "exp_"
tcp = ["20000-20009"]
memory = "64 MiB"
[context]
image = "debian"
stop_after = "0 s"
"#;

/// Asks for these one after the other, and is answered so.
fn must(site: &Site<'_>, asked: &[(&str, Value, u64)]) -> Result<Vec<Value>> {
    let request = |(line, body, _): &(&str, Value, u64)| {
        let body = body.to_string();
        let length = format!("Content-Length: {}\r\n", body.len());
        super::request(line, &length) + &body
    };
    let requests: Vec<_> = asked.iter().map(request).collect();
    let told = ask(site, "ctl", &requests)?.into_iter();
    let mut all = Vec::new();
    for ((line, body, status), told) in asked.iter().zip(told) {
        ensure!(
            told.status == *status,
            "{line} {body}: {} {} {}",
            told.status,
            told.kind,
            told.body
        );
        all.push(serde_json::from_str(&told.body)?);
    }
    Ok(all)
}

/// Whose a TCP port is; of nobody with a name while a slice is made.
fn owner(site: &Site<'_>, port: u16) -> Result<String> {
    owner_in(&site.json(&["ports", "--protocol", "tcp"])?, port)
}

fn owner_in(ports: &Value, port: u16) -> Result<String> {
    let all = ports["ports"].as_array().context("no ports")?;
    let within = |row: &&Value| {
        let end = |key: &str| row[key].as_u64().unwrap_or(0);
        (end("low")..=end("high")).contains(&u64::from(port))
    };
    let row = all.iter().find(within);
    let row = row.with_context(|| format!("{port} is nobody's: {ports}"))?;
    Ok(row["owner"]["name"].as_str().unwrap_or_default().to_owned())
}

fn terms(floor: &str, port: u16) -> Value {
    json!({"context": {"image": "debian"}, "memory": {"floor": floor}, "ports": {"tcp": [port]}})
}

/// Which of the TCP ports a slice binds.
fn binds(site: &Site<'_>, slice: &str, ports: [u16; 2]) -> Result<[bool; 2]> {
    let text = format!(
        "import socket, json\n\
         def binds(port):\n\
         \x20   try: return not socket.socket().bind(('', port))\n\
         \x20   except OSError: return False\n\
         print(json.dumps([binds(port) for port in {ports:?}]))"
    );
    let told = site.must(&["exec", slice, "--", "python3", "-c", &text])?;
    Ok(serde_json::from_str(&told)?)
}

fn guaranteed(slice: &str) -> Result<String> {
    let floor = fs::read_to_string(format!("{SLICES}/{slice}/memory.min"))?;
    Ok(floor.trim().to_owned())
}

fn a_management_slice_makes_slices(node: &mut Node) -> Result<()> {
    image::debian(node)?;
    let site = Site::up(
        node,
        &[
            ("node.toml", "[node]\nmax_slices = 8\n"),
            ("slices/ctl.toml", CONTROLLER),
            ("slices/owned.toml", "ports.tcp = [443]\n"),
        ],
    )?;
    site.must(&["start", "ctl"])?;
    let told = is_a_controller(&site);
    // Also of a test that failed nothing is left to the next.
    for slice in ["exp_a", "exp_b", "ctl"] {
        site.slice(&["destroy", "--yes", slice])?;
    }
    let _ = fs::remove_file(LOG);
    told
}

fn is_a_controller(site: &Site<'_>) -> Result<()> {
    let daemon = site.daemon()?;
    served(site, "ctl")?;
    is_made_and_changed(site).with_context(|| daemon.output())?;
    is_refused(site)?;
    // With the daemon, which does the rest when it comes again, and without: then at once.
    let daemon = is_made_or_not(site, daemon, false)?;
    must(site, &[("DELETE /v1/slices/exp_b", Value::Null, 200)])?;
    let _daemon = is_made_or_not(site, daemon, true)?;
    leaves_nothing(site)?;
    is_the_owners(site)?;
    is_written_down()
}

fn is_made_and_changed(site: &Site<'_>) -> Result<()> {
    // Made, it runs, and has its port as nobody else does.
    let put = |floor, port, status| ("PUT /v1/slices/exp_a", terms(floor, port), status);
    let told = must(
        site,
        &[put("48 MiB", 20003, 201), put("48 MiB", 20003, 200)],
    )?;
    ensure!(told[0]["slice"]["running"] == true, "{told:?}");
    ensure!(told[1]["changed"] == false, "{told:?}");
    ensure!(owner(site, 20003)? == "exp_a" && owner(site, 20004)? == "ctl");
    ensure!(binds(site, "exp_a", [20003, 443])? == [true, false]);
    ensure!(binds(site, "ctl", [20003, 20004])? == [false, true]);
    ensure!(guaranteed("exp_a")? == (48 << 20).to_string());
    let row = &site.json(&["status", "exp_a"])?["rows"][0];
    ensure!(row["controller"] == "ctl", "{row}");

    let stop = ("POST /v1/slices/exp_a/stop", Value::Null, 200);
    let told = must(site, &[put("40 MiB", 20004, 200), stop])?;
    ensure!(told[1]["slice"]["running"] == false, "{told:?}");
    ensure!(guaranteed("exp_a")? == (40 << 20).to_string());
    ensure!(owner(site, 20003)? == "ctl" && owner(site, 20004)? == "exp_a");
    ensure!(site.slice(&["exec", "exp_a", "--", "true"])?.status != 0);
    must(site, &[("POST /v1/slices/exp_a/start", Value::Null, 200)])?;
    ensure!(site.must(&["exec", "exp_a", "--", "id", "-u"])?.trim() == "0");
    Ok(())
}

/// What is more than there is, by what and by how much; what is others'; what nobody lends.
fn is_refused(site: &Site<'_>) -> Result<()> {
    let mut never = terms("1 MiB", 20005);
    never["grants"] = json!(["status"]);
    never["address"] = json!({"ipv4": "198.51.100.7"});
    let told = must(
        site,
        &[
            ("PUT /v1/slices/exp_b", never, 422),
            ("PUT /v1/slices/exp_b", terms("30 MiB", 20004), 422),
            ("DELETE /v1/slices/owned", Value::Null, 404),
            ("POST /v1/slices/owned/stop", Value::Null, 404),
            ("DELETE /v1/slices/ctl", Value::Null, 404),
            ("PUT /v1/slices/owned", terms("1 MiB", 20005), 422),
        ],
    )?;
    let (never, much) = (told[0].to_string(), told[1].to_string());
    for field in ["grants", "address"] {
        ensure!(never.contains(&format!("\"field\":\"{field}\"")), "{never}");
    }
    for part in [
        "30 MiB of memory is 6 MiB too much",
        "TCP port 20004 is not ctl's to lend",
    ] {
        ensure!(much.contains(part), "{much}");
    }
    let theirs = ask(site, "exp_a", &[super::request("GET /v1/control", "")])?;
    ensure!(theirs[0].status == 403, "{}", theirs[0].body);
    Ok(())
}

/// Kills the process that changes slices for the daemon, if it is not through.
fn end_who_makes_it() -> Result<()> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().to_string_lossy().parse().ok();
        if command
            .split(|octet| *octet == 0)
            .any(|word| word == b"control-do")
            && let Some(pid) = pid.and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::KILL)?;
        }
    }
    Ok(())
}

/// Where who makes a slice is killed, alone or with the daemon, the daemon makes it, or it never was.
fn is_made_or_not(site: &Site<'_>, daemon: Running, with_daemon: bool) -> Result<Running> {
    let name = Path::new("/var/lib/slice/managed/exp_b.json");
    let body = terms("8 MiB", 20005).to_string();
    let length = format!("Content-Length: {}\r\n", body.len());
    let request = super::request("PUT /v1/slices/exp_b", &length) + &body;
    let mut making = std::process::Command::new("slice");
    let words = ["exec", "ctl", "--", "python3", "-c", super::CLIENT];
    making.args(words).arg(serde_json::to_string(&[request])?);
    let making = site.start("making", making)?;
    for _ in 0..2000 {
        if name.exists() {
            break;
        }
        sleep(Duration::from_millis(5));
    }
    end_who_makes_it()?;
    let daemon = if with_daemon {
        daemon.kill()?;
        drop(making);
        ensure!(name.exists(), "it was not reached");
        site.daemon()?
    } else {
        daemon
    };
    served(site, "ctl")?;
    until("it is made", || Ok(owner(site, 20005)? == "exp_b"))?;
    Ok(daemon)
}

fn leaves_nothing(site: &Site<'_>) -> Result<()> {
    let end = |status| ("DELETE /v1/slices/exp_a", Value::Null, status);
    must(site, &[end(200), end(404)])?;
    ensure!(owner(site, 20004)? == "ctl");
    for left in [
        format!("{SLICES}/exp_a"),
        String::from("/var/lib/slice/slices/exp_a"),
        String::from("/var/lib/slice/managed/exp_a.json"),
        String::from("/run/slice/shown/exp_a"),
    ] {
        ensure!(!Path::new(&left).exists(), "{left} is left");
    }
    Ok(())
}

/// What the owner takes back stands still, and is there again when it is given.
fn is_the_owners(site: &Site<'_>) -> Result<()> {
    site.write(
        "slices/ctl.toml",
        &CONTROLLER.replace("20000-20009", "20000-20004"),
    )?;
    let told = site.slice(&["reload"])?;
    ensure!(
        told.stderr
            .contains("slice exp_b that ctl made is left out"),
        "{}",
        told.stderr
    );
    ensure!(!Path::new(SLICES).join("exp_b").exists());
    site.write("slices/ctl.toml", CONTROLLER)?;
    site.must(&["reload"])?;
    ensure!(site.must(&["exec", "exp_b", "--", "id", "-u"])?.trim() == "0");
    must(site, &[("DELETE /v1/slices/exp_b", Value::Null, 200)])?;
    Ok(())
}

/// Who, what, and from what to what, before and after each change; nothing of what was refused.
fn is_written_down() -> Result<()> {
    let log = fs::read_to_string(LOG)?;
    let lines: Vec<Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let of_a = lines.iter().filter(|line| line["slice"] == "exp_a");
    let told: Vec<String> = of_a
        .map(|line| {
            let floor = |when: &str| line[when]["memory_floor"].as_u64().map(|floor| floor >> 20);
            let (act, stage) = (&line["act"], &line["stage"]);
            format!("{act} {stage} {:?} {:?}", floor("before"), floor("after")).replace('"', "")
        })
        .collect();
    let done = |act: &str| format!("{act} done None None");
    ensure!(
        told == [
            "create begin None Some(48)".to_owned(),
            done("create"),
            "change begin Some(48) Some(40)".to_owned(),
            done("change"),
            "stop begin None None".to_owned(),
            done("stop"),
            "start begin None None".to_owned(),
            done("start"),
            "destroy begin Some(40) None".to_owned(),
            done("destroy"),
        ],
        "{log}"
    );
    Ok(())
}
