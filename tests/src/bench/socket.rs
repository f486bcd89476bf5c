//! A test run's socket is the kernel's own and new in each run, so nobody can
//! tag it beforehand. A program of a few instructions does, and jumps to the
//! program under test: as its twin jumps to one that does nothing, the
//! difference is the program's own time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use policy::SliceId;
use policy::abi::Tag;
use policy::ids::FIRST_SLICE_ROW;
use zerocopy::IntoBytes;

use super::bpf::{self, Instruction, Kind};

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R6: u8 = 6;
const R7: u8 = 7;
/// The frame pointer.
const R10: u8 = 10;

/// `BPF_PSEUDO_MAP_FD`, in the source register of a 64-bit load.
const MAP: u8 = 1;
/// `BPF_FUNC_tail_call`.
const TAIL_CALL: i32 = 12;
/// `BPF_FUNC_get_prandom_u32`.
const RANDOM: i32 = 7;
/// `BPF_FUNC_sk_storage_get`.
const SK_STORAGE_GET: i32 = 107;
/// `BPF_SK_STORAGE_GET_F_CREATE`.
const CREATE: i32 = 1;
/// Offset of `sk` in `struct __sk_buff`.
const SKB_SK: i16 = 168;
/// Bytes of a tag, from the top of the stack down.
const TAG_BYTES: i16 = 80;
const _: () = assert!(size_of::<Tag>() == 80);

/// How often the rows of all slices here were given away before.
pub const GENERATION: u32 = 1;

/// What the socket's earlier packets were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Past {
    /// The same flow as this packet.
    SameFlow,
    /// Another one: what was remembered is overwritten before each packet.
    OtherFlow,
    /// The same, but the socket is given to a random one of so many slices
    /// before each packet: nothing of theirs is in the processor's caches but
    /// by chance.
    OtherSlice(i32),
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> Instruction {
    let [o0, o1] = offset.to_le_bytes();
    let [n0, n1, n2, n3] = number.to_le_bytes();
    [code, from << 4 | to, o0, o1, n0, n1, n2, n3]
}

fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

fn number(to: u8, number: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, number)
}

fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

fn map(to: u8, map: BorrowedFd<'_>) -> [Instruction; 2] {
    [instruction(0x18, to, MAP, 0, map.as_raw_fd()), [0; 8]]
}

/// The id of the first slice in its first use of the row.
fn first_id() -> Result<i32> {
    let id = SliceId::new(GENERATION, FIRST_SLICE_ROW).context("the first row is no slice's")?;
    Ok(i32::try_from(id.0)?)
}

const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// A program that lets every packet through.
pub fn idle(kind: Kind) -> Result<OwnedFd> {
    bpf::load(kind, &[number(R0, 1), EXIT])
}

/// A program that gives its socket `tag`, where it has none, and jumps to the
/// program in `row` of `jumps`.
pub fn tagged(
    attach_type: u32,
    tags: BorrowedFd<'_>,
    tag: &Tag,
    past: Past,
    jumps: &OwnedFd,
    row: i32,
) -> Result<OwnedFd> {
    let mut program = vec![copy(R6, R1)];
    // The tag on the stack, a word of 32 bits at a time.
    for (offset, word) in (-TAG_BYTES..)
        .step_by(4)
        .zip(tag.as_bytes().chunks_exact(4))
    {
        let word = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        program.push(instruction(0x62, R10, 0, offset, word));
    }
    program.push(instruction(0x79, R2, R6, SKB_SK, 0));
    let mut visit = Vec::new();
    visit.extend(map(R1, tags));
    visit.push(copy(R3, R10));
    visit.push(instruction(0x07, R3, 0, 0, i32::from(-TAG_BYTES)));
    visit.push(number(R4, CREATE));
    visit.push(call(SK_STORAGE_GET));
    let change = match past {
        Past::SameFlow => Vec::new(),
        Past::OtherFlow => {
            let offset = i16::try_from(std::mem::offset_of!(Tag, version))?;
            vec![instruction(0x72, R0, 0, offset, 0)]
        }
        Past::OtherSlice(slices) => vec![
            copy(R7, R0),
            call(RANDOM),
            instruction(0x97, R0, 0, 0, slices),
            instruction(0x07, R0, 0, 0, first_id()?),
            instruction(
                0x63,
                R7,
                R0,
                i16::try_from(std::mem::offset_of!(Tag, id))?,
                0,
            ),
        ],
    };
    // Nothing to change where the storage could not be made.
    visit.push(instruction(0x15, R0, 0, i16::try_from(change.len())?, 0));
    visit.extend(change);
    // Without a socket there is nothing to tag.
    program.push(instruction(0x15, R2, 0, i16::try_from(visit.len())?, 0));
    program.extend(visit);
    program.push(copy(R1, R6));
    program.extend(map(R2, jumps.as_fd()));
    program.push(number(R3, row));
    program.push(call(TAIL_CALL));
    // Not reached where the row has a program.
    program.extend([number(R0, 0), EXIT]);
    bpf::load(Kind::Cgroup(attach_type), &program)
}
