//! Every map; the table in `policy::abi` says who writes and who reads each.
//! The loader sets the sizes of those with a row per slice.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::macros::btf_map;
use policy::SliceId;
use policy::abi::{
    AUDIT_RING, AUDITOR_ROWS, Address, AddressEntry, ArmedDevice, Arrivals, Audited, Auditor,
    Bucket, Claim, Denials, Event, FlowKey, FlowTurn, LINKS as MOST_LINKS, LinkEntry, LinkKnobs,
    LinkState, LoopbackPorts, PORT_ROWS, QuotaState, RefusedPorts, Reserved, STARTED_PER_SLICE,
    Settings, SliceEntry, SliceState, StartedAt, StartedFlow, TALLY_ROWS, Tag, TalliedFlow, Tally,
    TallyRest, Traffic,
};

/// Rows where the loader does not say otherwise.
const ROWS: usize = 1026;
const NO_PREALLOC: usize = 1;
/// Started flows where the loader does not say otherwise.
const STARTS: usize = ROWS * STARTED_PER_SLICE as usize;

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
pub static CGROUPS: HashMap<u64, SliceId, 16384> = HashMap::new();
#[btf_map]
pub static SLICES: Array<SliceEntry, ROWS> = Array::new();
#[btf_map]
pub static STATES: Array<SliceState, ROWS> = Array::new();
#[btf_map]
pub static TRAFFIC: PerCpuArray<Traffic, ROWS> = PerCpuArray::new();
#[btf_map]
pub static DENIALS: Array<Denials, ROWS> = Array::new();
#[btf_map]
pub static RESERVED: Array<Reserved, { PORT_ROWS as usize }> = Array::new();
#[btf_map]
pub static CLAIMS: Array<Claim, { PORT_ROWS as usize }> = Array::new();
#[btf_map]
pub static ADDRESSES: HashMap<Address, AddressEntry, 32768> = HashMap::new();
#[btf_map]
pub static REFUSED: LpmTrie<[u8; 20], RefusedPorts, 65536> = LpmTrie::new();
#[btf_map]
pub static FLOWS: HashMap<FlowKey, SliceId, 262144, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static LOOPBACK: Array<LoopbackPorts, ROWS> = Array::new();
#[btf_map]
pub static STARTED: HashMap<FlowKey, StartedFlow, STARTS, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static STARTED_RING: HashMap<StartedAt, FlowKey, STARTS, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub static DEVICES: HashMap<u32, ArmedDevice, 4096> = HashMap::new();
#[btf_map]
pub static LINK_OF: HashMap<u32, u32, { MOST_LINKS as usize }> = HashMap::new();
#[btf_map]
pub static LINKS: Array<LinkEntry, { MOST_LINKS as usize }> = Array::new();
#[btf_map]
pub static LINK_STATES: Array<LinkState, { MOST_LINKS as usize }> = Array::new();
/// Twice `MAX_EXEMPT`: a reload sets those that come before it removes those that go.
#[btf_map]
pub static EXEMPT: LpmTrie<[u8; 20], u32, 131072> = LpmTrie::new();
#[btf_map]
pub static KNOBS: Array<LinkKnobs, ROWS> = Array::new();
#[btf_map]
pub static BUCKETS: Array<Bucket, ROWS> = Array::new();
#[btf_map]
pub static ARRIVES_BY: HashMap<u32, u32, 1024> = HashMap::new();
#[btf_map]
pub static ARRIVALS: Array<Arrivals, ROWS> = Array::new();
#[btf_map]
pub static QUOTAS: Array<QuotaState, ROWS> = Array::new();
#[btf_map]
pub static WAITING: Array<u64, ROWS> = Array::new();
#[btf_map]
pub static DIVIDED: Array<u32, ROWS> = Array::new();
#[btf_map]
pub static TURNS: Array<FlowTurn, ROWS> = Array::new();
/// The program for packets that raw sockets send, at 0.
#[btf_map]
pub static RAW_OUT: ProgramArray<1> = ProgramArray::new();
/// The program for packets that the node's sockets send where slices have raw
/// sockets, at 0.
#[btf_map]
pub static NODE_OUT: ProgramArray<1> = ProgramArray::new();
/// The program for packets that raw sockets receive, at 0.
#[btf_map]
pub static RAW_IN: ProgramArray<1> = ProgramArray::new();
/// The program for frames that packet sockets receive, at 0.
#[btf_map]
pub static CAPTURE: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub static AUDITORS: Array<Auditor, { AUDITOR_ROWS as usize }> = Array::new();
#[btf_map]
pub static AUDITORS_LOST: Array<u64, { AUDITOR_ROWS as usize }> = Array::new();
#[btf_map]
pub static AUDITOR_RINGS: HashOfMaps<
    u32,
    RingBuf<Audited, { AUDIT_RING as usize }>,
    { AUDITOR_ROWS as usize },
> = HashOfMaps::new();
/// The program that copies packets that leave sockets for those who audit, at 0.
#[btf_map]
pub static AUDIT_OUT: ProgramArray<1> = ProgramArray::new();
/// The same of packets that reach sockets.
#[btf_map]
pub static AUDIT_IN: ProgramArray<1> = ProgramArray::new();
/// The same of frames.
#[btf_map]
pub static AUDIT_FRAME: ProgramArray<1> = ProgramArray::new();
/// The generation of tallies: its last bit says which of the two maps is filled.
#[btf_map]
pub static TALLY: Array<u64, 1> = Array::new();
#[btf_map]
pub static TALLIES_EVEN: HashMap<TalliedFlow, Tally, { TALLY_ROWS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub static TALLIES_ODD: HashMap<TalliedFlow, Tally, { TALLY_ROWS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub static TALLY_REST: Array<TallyRest, { 2 * ROWS }> = Array::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, 1048576> = RingBuf::new();
#[btf_map]
pub static TRACED: Array<u64, ROWS> = Array::new();
#[btf_map]
pub static TAGS: SocketStorage<Tag> = SocketStorage::new();

/// Socket storage that accepted sockets inherit: the library's own type lacks
/// the flag BPF_F_CLONE, and takes one kind of context only.
#[repr(C)]
pub struct SocketStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; NO_PREALLOC | CLONE],
}

/// `BPF_F_CLONE`.
const CLONE: usize = 512;

// SAFETY: the pointers are never followed; they carry types for the loader.
unsafe impl<T> Sync for SocketStorage<T> {}

impl<T> SocketStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The map as the helpers take it.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut core::ffi::c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}
