//! What is asked of a slice's first process, and what it answers.
//!
//! One packet asks, with the descriptors that become the command's; answers
//! are packets of eight bytes, since who runs in the slice may have taken its
//! first process over: nothing that comes out of a slice is parsed.

use std::fmt;

/// What a command's standard input, output and error are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stdio {
    /// The next descriptor of the packet.
    Passed,
    /// `/dev/null` of the slice.
    Null,
}

/// What to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Run {
    /// A command and its arguments.
    Command(Vec<Vec<u8>>),
    /// The user's shell, as at a login.
    Login,
    /// A line for the user's shell.
    Line(Vec<u8>),
    /// End every other process of the slice: ask each, wait for so many
    /// milliseconds.
    Stop(u32),
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to run.
    pub run: Run,
    /// As which user of the slice, by name.
    pub user: Vec<u8>,
    /// `NAME=value`, beside what a login sets.
    pub environment: Vec<Vec<u8>>,
    /// Rows and columns of a terminal of the slice's to run it on; none: the
    /// three below are its input, output and error.
    pub terminal: Option<(u16, u16)>,
    /// The standard streams, where it has no terminal.
    pub stdio: [Stdio; 3],
}

/// Most bytes of a request: what the socket's buffer holds.
pub const LONGEST: usize = 400 * 1024;

/// A packet that is no request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request is malformed")
    }
}

impl std::error::Error for Malformed {}

const COMMAND: u32 = 1;
const LOGIN: u32 = 2;
const LINE: u32 = 3;
const STOP: u32 = 4;

impl Request {
    /// The packet.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let number = |out: &mut Vec<u8>, number: u32| out.extend(number.to_le_bytes());
        let text = |out: &mut Vec<u8>, text: &[u8]| {
            // A longer text does not fit a packet, which is refused whole.
            number(out, u32::try_from(text.len()).unwrap_or(u32::MAX));
            out.extend(text);
        };
        let list = |out: &mut Vec<u8>, list: &[Vec<u8>]| {
            number(out, u32::try_from(list.len()).unwrap_or(u32::MAX));
            for entry in list {
                text(out, entry);
            }
        };
        match &self.run {
            Run::Command(command) => {
                number(&mut out, COMMAND);
                list(&mut out, command);
            }
            Run::Login => number(&mut out, LOGIN),
            Run::Line(line) => {
                number(&mut out, LINE);
                text(&mut out, line);
            }
            Run::Stop(milliseconds) => {
                number(&mut out, STOP);
                number(&mut out, *milliseconds);
            }
        }
        text(&mut out, &self.user);
        list(&mut out, &self.environment);
        let size = self.terminal.map_or(0, |(rows, columns)| {
            1 << 31 | u32::from(rows & 0x7fff) << 16 | u32::from(columns)
        });
        number(&mut out, size);
        for stdio in self.stdio {
            number(&mut out, u32::from(stdio == Stdio::Passed));
        }
        out
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// It is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = Rest(bytes);
        let run = match rest.number()? {
            COMMAND => Run::Command(rest.list()?),
            LOGIN => Run::Login,
            LINE => Run::Line(rest.text()?),
            STOP => Run::Stop(rest.number()?),
            _ => return Err(Malformed),
        };
        if run == Run::Command(Vec::new()) {
            return Err(Malformed);
        }
        let (user, environment, size) = (rest.text()?, rest.list()?, rest.number()?);
        let half = |number: u32| u16::try_from(number & 0xffff).unwrap_or(0);
        let terminal = (size >> 31 != 0).then(|| (half(size >> 16 & 0x7fff), half(size)));
        let mut stdio = [Stdio::Null; 3];
        for stream in &mut stdio {
            if rest.number()? == 1 {
                *stream = Stdio::Passed;
            }
        }
        if !rest.0.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            run,
            user,
            environment,
            terminal,
            stdio,
        })
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn number(&mut self) -> Result<u32, Malformed> {
        let (number, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*number))
    }

    fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        // What it becomes a part of ends at a zero.
        if text.contains(&0) {
            return Err(Malformed);
        }
        Ok(text.to_vec())
    }

    fn list(&mut self) -> Result<Vec<Vec<u8>>, Malformed> {
        let length = self.number()?;
        (0..length).map(|_| self.text()).collect()
    }
}

/// What the first process answers, and what it is told meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The terminal's other end comes with this packet.
    Terminal,
    /// The command ended with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It could not be started, for this error number.
    NotStarted(i32),
    /// The slice has no such user.
    NoUser,
}

/// Bytes of an answer, and of a signal to pass on.
pub const ANSWER: usize = 8;

impl Answer {
    /// The packet.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ANSWER] {
        let (kind, value): (u32, i32) = match self {
            Self::Terminal => (1, 0),
            Self::Exited(status) => (2, status),
            Self::Signaled(signal) => (3, signal),
            Self::NotStarted(errno) => (4, errno),
            Self::NoUser => (5, 0),
        };
        let mut bytes = [0; ANSWER];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    /// Reads a packet; none where it is no answer.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first_chunk()?;
        let value = i32::from_le_bytes(rest.try_into().ok()?);
        match u32::from_le_bytes(*kind) {
            1 => Some(Self::Terminal),
            2 => Some(Self::Exited(value)),
            3 => Some(Self::Signaled(value)),
            4 => Some(Self::NotStarted(value)),
            5 => Some(Self::NoUser),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(run: Run) -> Request {
        Request {
            run,
            user: b"root".to_vec(),
            environment: vec![b"TERM=xterm".to_vec(), b"LANG=C.UTF-8".to_vec()],
            terminal: Some((24, 300)),
            stdio: [Stdio::Passed, Stdio::Null, Stdio::Passed],
        }
    }

    #[test]
    fn what_is_asked_is_understood() {
        for run in [
            Run::Command(vec![b"ls".to_vec(), b"-l".to_vec(), Vec::new(), vec![0xff]]),
            Run::Login,
            Run::Line(b"echo $HOME; exit 3".to_vec()),
            Run::Stop(10_000),
        ] {
            let request = request(run);
            assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        }
        let without = Request {
            terminal: None,
            ..request(Run::Login)
        };
        assert_eq!(Request::from_bytes(&without.to_bytes()), Ok(without));
    }

    #[test]
    fn what_is_cut_or_longer_is_malformed() {
        let bytes = request(Run::Command(vec![b"ls".to_vec()])).to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(Request::from_bytes(&bytes[..length]), Err(Malformed));
        }
        assert_eq!(
            Request::from_bytes(&[bytes.as_slice(), &[0]].concat()),
            Err(Malformed)
        );
        let none = request(Run::Command(Vec::new())).to_bytes();
        assert_eq!(Request::from_bytes(&none), Err(Malformed));
        let zero = request(Run::Line(b"a\0b".to_vec())).to_bytes();
        assert_eq!(Request::from_bytes(&zero), Err(Malformed));
    }

    #[test]
    fn a_list_that_claims_to_be_endless_is_malformed() {
        let mut bytes = COMMAND.to_le_bytes().to_vec();
        bytes.extend(u32::MAX.to_le_bytes());
        assert_eq!(Request::from_bytes(&bytes), Err(Malformed));
    }

    #[test]
    fn an_answer_is_eight_bytes_and_nothing_else() {
        for answer in [
            Answer::Terminal,
            Answer::Exited(-1),
            Answer::Signaled(9),
            Answer::NotStarted(2),
            Answer::NoUser,
        ] {
            assert_eq!(Answer::from_bytes(&answer.to_bytes()), Some(answer));
        }
        assert_eq!(Answer::from_bytes(b"hello"), None);
        assert_eq!(Answer::from_bytes(&[9; 8]), None);
        assert_eq!(Answer::from_bytes(&[2, 0, 0, 0, 1, 0, 0, 0, 0]), None);
    }
}
