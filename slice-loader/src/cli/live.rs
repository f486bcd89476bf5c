//! A screen that is drawn again and again until somebody presses a key: the
//! terminal's second page, so that what was on the first is there afterwards.
//! Without a terminal, readings that are printed one after the other.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Switch to the second page and hide the cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the top left; erase to the end of the line, of the page.
const HOME: &str = "\x1b[H";
const END_LINE: &str = "\x1b[K";
const END_PAGE: &str = "\x1b[J";
/// Ctrl-C, which a raw terminal hands over as it is.
const INTERRUPT: u8 = 3;

/// What is read again and again, and shown.
pub(super) trait View {
    /// Reads it anew.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&mut self) -> anyhow::Result<()>;
    /// The page of a terminal, after this key.
    ///
    /// # Errors
    /// It cannot be written.
    fn page(&mut self, key: Option<char>) -> io::Result<String>;
    /// Prints what was read last.
    ///
    /// # Errors
    /// It cannot be written.
    fn print(&self) -> anyhow::Result<()>;
}

/// Shows a view until `q` on a terminal, or prints `count` readings of it, one where
/// nothing is said. The first comes after `first`, each other `interval` after the one
/// before.
///
/// # Errors
/// Those of the view and of the terminal.
pub(super) fn follow(
    view: &mut impl View,
    json: bool,
    count: Option<u32>,
    first: Duration,
    interval: Duration,
) -> anyhow::Result<()> {
    let live = if json { None } else { Live::open()? };
    let mut left = match (count, &live) {
        (Some(count), _) => Some(count),
        (None, Some(_)) => None,
        (None, None) => Some(1),
    };
    let mut pause = first;
    let mut next = Instant::now() + first;
    while left != Some(0) {
        match &live {
            Some(live) => {
                if !live.until(next, |key| view.page(key))? {
                    break;
                }
            }
            None => thread::sleep(pause),
        }
        pause = interval;
        next = Instant::now() + interval;
        view.read()?;
        if live.is_none() {
            view.print()?;
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// What a key stands for.
pub(super) fn by_key<T: Copy>(keys: &[(char, T)], key: char) -> Option<T> {
    keys.iter()
        .find_map(|(name, order)| (*name == key).then_some(*order))
}

/// The terminal while it is drawn on.
struct Live {
    before: Termios,
}

impl Live {
    /// Takes the terminal over; `None` where standard input or output is none.
    ///
    /// # Errors
    /// The terminal does not let its modes be set.
    fn open() -> anyhow::Result<Option<Self>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin()).context("read the terminal's modes")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw).context("set the terminal raw")?;
        let live = Self { before };
        write!(io::stdout(), "{ENTER}")?;
        Ok(Some(live))
    }

    /// Draws a page: as many of the lines as there is room for.
    ///
    /// # Errors
    /// The terminal is gone.
    fn draw(&self, page: &str) -> io::Result<()> {
        let rows = terminal_size::terminal_size().map_or(24, |(_, rows)| usize::from(rows.0));
        let mut text = String::from(HOME);
        for (at, line) in page.lines().take(rows).enumerate() {
            // No new line after the last: the page would scroll.
            text += if at > 0 { "\r\n" } else { "" };
            text += line;
            text += END_LINE;
        }
        text += END_PAGE;
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Draws a page until it is time for another reading, anew for each key and when
    /// the terminal changes; whether nobody has ended it.
    ///
    /// # Errors
    /// As [`Live::draw`] and [`Live::key`], and those of the page.
    fn until(
        &self,
        next: Instant,
        mut page: impl FnMut(Option<char>) -> io::Result<String>,
    ) -> io::Result<bool> {
        let mut pressed = None;
        loop {
            self.draw(&page(pressed)?)?;
            pressed = self.key(next.saturating_duration_since(Instant::now()))?;
            if pressed == Some('q') {
                return Ok(false);
            }
            if pressed.is_none() && Instant::now() >= next {
                return Ok(true);
            }
        }
    }

    /// Waits so long for a key; `None` where none was pressed. Ctrl-C and the
    /// end of the input are `q`.
    ///
    /// # Errors
    /// The terminal cannot be read.
    fn key(&self, time: Duration) -> io::Result<Option<char>> {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let stdin = io::stdin();
        let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            // The size of the terminal changed: time to draw.
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        // Not through the standard library's buffer: what waits there is not
        // seen by poll(2).
        let mut byte = [0];
        match nix::unistd::read(stdin.as_fd(), &mut byte)? {
            0 => Ok(Some('q')),
            _ if byte[0] == INTERRUPT => Ok(Some('q')),
            _ => Ok(Some(char::from(byte[0]))),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = write!(out, "{LEAVE}").and_then(|()| out.flush());
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
