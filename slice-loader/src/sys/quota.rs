//! Project quotas: quotactl_fd(2) with the commands that ext4 and xfs both
//! have, and the project of a directory (`FS_IOC_FSSETXATTR`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use zerocopy::FromZeros;

/// Project quotas, of the three kinds (`PRJQUOTA`).
const PROJECT: u32 = 2;
/// The commands have one form for all file systems that have quotas at all
/// (`Q_X...` of linux/dqblk_xfs.h); the kernel translates.
const GET: u32 = command(3);
const SET_LIMITS: u32 = command(4);
const GET_STATE: u32 = command(8);

const fn command(number: u32) -> u32 {
    (((b'X' as u32) << 8) + number) << 8 | PROJECT
}

/// `struct fs_quota_statv`, as far as it is looked at: `FS_QUOTA_PDQ_ACCT` and
/// `FS_QUOTA_PDQ_ENFD` in `qs_flags`.
const ACCOUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;

/// `FS_DQ_ISOFT | FS_DQ_IHARD | FS_DQ_BSOFT | FS_DQ_BHARD`: which fields are set.
const LIMITS: u16 = 0b1111;
/// The unit of bytes in these structures.
const BLOCK: u64 = 512;

/// `struct fs_disk_quota` of linux/dqblk_xfs.h.
#[repr(C)]
#[derive(FromZeros)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fieldmask: u16,
    id: u32,
    blk_hardlimit: u64,
    blk_softlimit: u64,
    ino_hardlimit: u64,
    ino_softlimit: u64,
    bcount: u64,
    icount: u64,
    itimer: i32,
    btimer: i32,
    iwarns: u16,
    bwarns: u16,
    itimer_hi: i8,
    btimer_hi: i8,
    rtbtimer_hi: i8,
    padding2: i8,
    rtb_hardlimit: u64,
    rtb_softlimit: u64,
    rtbcount: u64,
    rtbtimer: i32,
    rtbwarns: u16,
    padding3: i16,
    padding4: [u8; 8],
}

/// `struct fs_qfilestatv`.
#[repr(C)]
#[derive(FromZeros)]
struct QuotaFile {
    ino: u64,
    nblks: u64,
    nextents: u32,
    pad: u32,
}

/// `struct fs_quota_statv`.
#[repr(C)]
#[derive(FromZeros)]
struct QuotaState {
    version: i8,
    pad1: u8,
    flags: u16,
    incoredqs: u32,
    user: QuotaFile,
    group: QuotaFile,
    project: QuotaFile,
    btimelimit: i32,
    itimelimit: i32,
    rtbtimelimit: i32,
    bwarnlimit: u16,
    iwarnlimit: u16,
    rtbwarnlimit: u16,
    pad3: u16,
    pad4: u32,
    pad2: [u64; 7],
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(FromZeros)]
struct FileAttributes {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

// The kernel reads and writes these sizes.
const _: () = assert!(size_of::<DiskQuota>() == 112);
const _: () = assert!(size_of::<QuotaState>() == 160);
const _: () = assert!(size_of::<FileAttributes>() == 28);

/// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`.
const GET_ATTRIBUTES: libc::c_ulong = 0x801c_581f;
const SET_ATTRIBUTES: libc::c_ulong = 0x401c_5820;
/// What is made in the directory belongs to its project (`FS_XFLAG_PROJINHERIT`).
const INHERIT: u32 = 0x200;

/// What a file system does about projects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// It counts what each project uses.
    pub accounted: bool,
    /// It refuses what goes beyond a limit.
    pub enforced: bool,
}

/// What one project uses, and most it may use; a limit of 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Project {
    /// Bytes, in whole blocks of the file system.
    pub bytes: u64,
    /// Files, directories and everything else that has a name.
    pub inodes: u64,
    /// Most bytes.
    pub bytes_limit: u64,
    /// Most inodes.
    pub inodes_limit: u64,
}

fn quotactl<T>(file: impl AsFd, command: u32, project: u32, data: &mut T) -> io::Result<()> {
    // SAFETY: each caller passes the structure that its command takes, of the
    // size asserted above; the kernel reads or writes no more than it, and any
    // bit pattern is a value of it.
    let code = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_fd().as_raw_fd(),
            command,
            project,
            std::ptr::from_mut(data),
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What the file system that holds `file` does about projects.
///
/// # Errors
/// It knows no project quotas (ENOSYS, EOPNOTSUPP), or has none turned on (ESRCH).
pub fn state(file: impl AsFd) -> io::Result<State> {
    let mut state = QuotaState::new_zeroed();
    // FS_QSTATV_VERSION1: the kernel wants to know what the caller understands.
    state.version = 1;
    quotactl(file, GET_STATE, 0, &mut state)?;
    Ok(State {
        accounted: state.flags & ACCOUNTED != 0,
        enforced: state.flags & ENFORCED != 0,
    })
}

/// What a project uses of the file system that holds `file`. One that never
/// had anything uses nothing.
///
/// # Errors
/// Project quotas are off.
pub fn project(file: impl AsFd, project: u32) -> io::Result<Project> {
    let mut quota = DiskQuota::new_zeroed();
    match quotactl(file, GET, project, &mut quota) {
        Ok(()) => Ok(Project {
            bytes: quota.bcount.saturating_mul(BLOCK),
            inodes: quota.icount,
            bytes_limit: quota.blk_hardlimit.saturating_mul(BLOCK),
            inodes_limit: quota.ino_hardlimit,
        }),
        // xfs keeps no record of a project without files and limits.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Project::default()),
        Err(error) => Err(error),
    }
}

/// Bounds a project on the file system that holds `file`; 0 is no bound. Both
/// limits are hard. Bytes are kept in blocks of 512.
///
/// # Errors
/// Project quotas are off, or the caller is not the node's root.
pub fn set_limits(file: impl AsFd, project: u32, bytes: u64, inodes: u64) -> io::Result<()> {
    let mut quota = DiskQuota::new_zeroed();
    // FS_DQUOT_VERSION, FS_PROJ_QUOTA.
    quota.version = 1;
    quota.flags = 2;
    quota.id = project;
    quota.fieldmask = LIMITS;
    // A limit of less than a block must not become no limit.
    quota.blk_hardlimit = if bytes == 0 {
        0
    } else {
        (bytes / BLOCK).max(1)
    };
    quota.ino_hardlimit = inodes;
    quotactl(file, SET_LIMITS, project, &mut quota)
}

fn attributes(file: impl AsFd) -> io::Result<FileAttributes> {
    let mut attributes = FileAttributes::new_zeroed();
    // SAFETY: the request number says that the kernel writes one such
    // structure, of the size asserted above; any bit pattern is a value of it.
    let code = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            GET_ATTRIBUTES,
            &raw mut attributes,
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(attributes)
    }
}

/// The project of an open file or directory, and whether what is made in the
/// directory belongs to it.
///
/// # Errors
/// The file system knows no projects.
pub fn project_of(file: impl AsFd) -> io::Result<(u32, bool)> {
    let attributes = attributes(file)?;
    Ok((attributes.projid, attributes.xflags & INHERIT != 0))
}

/// Puts an open directory, and with `inherit` what will be made in it, into a
/// project.
///
/// # Errors
/// The file system knows no projects.
pub fn set_project_of(directory: impl AsFd, project: u32, inherit: bool) -> io::Result<()> {
    let mut attributes = attributes(&directory)?;
    attributes.projid = project;
    if inherit {
        attributes.xflags |= INHERIT;
    } else {
        attributes.xflags &= !INHERIT;
    }
    // SAFETY: the request number says that the kernel reads one such
    // structure, which lives through the call.
    let code = unsafe {
        libc::ioctl(
            directory.as_fd().as_raw_fd(),
            SET_ATTRIBUTES,
            &raw const attributes,
        )
    };
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
