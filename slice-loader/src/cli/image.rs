//! `slice image`: the reference images that slices' roots begin with.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anstyle::Style;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::exit::Exit;
use super::quantity;
use super::screen::Screen;
use super::table::{Cell, Column, Table};
use crate::context::image::{Image, Images, unknown, used_by};

/// How often a terminal is told how far an import is.
const TOLD_EVERY: Duration = Duration::from_millis(100);

#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    /// Make a new version of an image of a directory or a tar archive.
    ///
    /// Slices that run stay in the version they were started in; the next start takes the newest.
    Import(ImportArgs),
    /// List the images.
    List {
        /// Only this image.
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Remove a version of an image that no slice runs in. What slices wrote stays theirs.
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The image's name, formed like a slice's.
    #[arg(value_name = "NAME")]
    name: String,
    /// A directory, or a tar archive: plain, or packed by gzip, xz or zstd.
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// Use the directory where it is; it must not change while slices run.
    #[arg(long)]
    reference: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// The image.
    #[arg(value_name = "NAME")]
    name: String,
    /// The version; without it there must be `--all`.
    // Not named `version`: every command has an option of that name.
    #[arg(value_name = "VERSION", required_unless_present = "all", conflicts_with = "all",
          value_parser = clap::value_parser!(u32).range(1..))]
    number: Option<u32>,
    /// Remove every version.
    #[arg(long)]
    all: bool,
}

/// An image as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    version: u32,
    tree: PathBuf,
    reference: bool,
    source: PathBuf,
    imported: Timestamp,
    bytes: u64,
    inodes: u64,
    used_by: Vec<String>,
}

#[derive(Serialize)]
struct List {
    images: Vec<Listed>,
}

#[derive(Serialize)]
struct Removed<'a> {
    name: &'a str,
    removed: Vec<u32>,
}

pub(super) fn run(command: &ImageCommand, screen: &Screen) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Import(args) => import(args, screen)?,
        ImageCommand::List { name } => list(name.as_deref(), screen)?,
        ImageCommand::Remove(args) => remove(args, screen)?,
    }
    Ok(Exit::Ok.into())
}

fn import(args: &ImportArgs, screen: &Screen) -> anyhow::Result<()> {
    let images = Images::open()?;
    let mut progress = Progress::new(screen, &args.source);
    let mut tell = |done, of| progress.tell(done, of);
    let image = images.import(&args.name, &args.source, args.reference, &mut tell);
    progress.end();
    let listed = listed(image?)?;
    if screen.json() {
        return screen.print_json(&listed);
    }
    if !screen.quiet() {
        writeln!(screen.out(), "{}", sentence(&listed))?;
    }
    Ok(())
}

fn sentence(image: &Listed) -> String {
    let (name, version) = (&image.name, image.version);
    if image.reference {
        let tree = image.tree.display();
        return format!("image {name}: version {version} refers to {tree}");
    }
    format!(
        "image {name}: version {version} has {} in {} files",
        quantity::bytes(image.bytes),
        quantity::count(image.inodes)
    )
}

fn list(name: Option<&str>, screen: &Screen) -> anyhow::Result<()> {
    let mut images = Images::open()?.list()?;
    if let Some(name) = name {
        images.retain(|image| image.name == name);
        if images.is_empty() {
            return Err(unknown(name, None).into());
        }
    }
    let images = images
        .into_iter()
        .map(listed)
        .collect::<anyhow::Result<Vec<_>>>()?;
    if screen.json() {
        return screen.print_json(&List { images });
    }
    if images.is_empty() {
        if !screen.quiet() {
            writeln!(
                screen.err(),
                "there are no images; `slice image import NAME SOURCE` makes one"
            )?;
        }
        return Ok(());
    }
    let mut table = Table::new([
        Column::left("IMAGE", 0),
        Column::right("VERSION", 0),
        Column::right("SIZE", 1),
        Column::right("FILES", 3),
        Column::left("IMPORTED", 2),
        Column::left("USED BY", 1),
        Column::left("SOURCE", 2),
    ]);
    for image in &images {
        let (bytes, inodes) = if image.reference {
            (String::from("reference"), String::new())
        } else {
            (quantity::bytes(image.bytes), quantity::count(image.inodes))
        };
        table.row([
            Cell::new(image.name.as_str(), Style::new().bold()),
            image.version.to_string().into(),
            bytes.into(),
            inodes.into(),
            quantity::time(image.imported).into(),
            image.used_by.join(" ").into(),
            super::table::printable(&image.source.to_string_lossy()).into(),
        ]);
    }
    let mut out = screen.out();
    table.write(&mut out, screen.width())?;
    Ok(out.flush()?)
}

fn remove(args: &RemoveArgs, screen: &Screen) -> anyhow::Result<()> {
    let images = Images::open()?;
    let name = args.name.as_str();
    let versions = match args.number {
        Some(version) => vec![version],
        None => images
            .list()?
            .into_iter()
            .filter(|image| image.name == name)
            .map(|image| image.version)
            .collect(),
    };
    if versions.is_empty() {
        return Err(unknown(name, None).into());
    }
    let mut removed = Vec::new();
    for version in versions {
        images.remove(name, version)?;
        removed.push(version);
    }
    if screen.json() {
        return screen.print_json(&Removed { name, removed });
    }
    if !screen.quiet() {
        for version in removed {
            writeln!(screen.out(), "image {name}: version {version} is removed")?;
        }
    }
    Ok(())
}

fn listed(image: Image) -> anyhow::Result<Listed> {
    let imported = Timestamp::from_second(i64::try_from(image.meta.imported)?)?;
    let used_by = used_by(&image.name, image.version)?;
    Ok(Listed {
        name: image.name,
        version: image.version,
        tree: image.tree,
        reference: image.meta.reference,
        source: image.meta.source,
        imported,
        bytes: image.meta.bytes,
        inodes: image.meta.inodes,
        used_by,
    })
}

/// A line on the terminal that says how far an import is; nothing elsewhere.
struct Progress {
    what: String,
    seen: bool,
    last: Option<Instant>,
}

impl Progress {
    fn new(screen: &Screen, source: &Path) -> Self {
        Self {
            what: super::table::printable(&source.to_string_lossy()).to_string(),
            seen: !screen.json() && !screen.quiet() && std::io::stderr().is_terminal(),
            last: None,
        }
    }

    fn tell(&mut self, done: u64, of: Option<u64>) {
        let recent = self.last.is_some_and(|last| last.elapsed() < TOLD_EVERY);
        if !self.seen || recent {
            return;
        }
        self.last = Some(Instant::now());
        let part = of
            .filter(|of| *of > 0)
            .map(|of| format!(" of {}, {} %", quantity::bytes(of), done.min(of) * 100 / of));
        // A terminal that is gone is no reason to stop.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[Kimporting {}: {}{}",
            self.what,
            quantity::bytes(done),
            part.unwrap_or_default()
        );
    }

    fn end(&mut self) {
        if self.last.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
