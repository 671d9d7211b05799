//! What a device's driver says about itself.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
/// `ETH_SS_STATS`: the names of the statistics.
const STRINGS_OF_STATS: u32 = 1;
/// `ETH_GSTRING_LEN`.
const STRING_LENGTH: usize = 32;
const DRVINFO_LENGTH: usize = 196;
/// Offset of `n_stats` in `struct ethtool_drvinfo`.
const DRVINFO_STATS_AT: usize = 180;
/// More statistics than this are no driver's.
const MOST_STATS: usize = 65_536;
const CHANNELS_LENGTH: usize = 36;

/// How many queue pairs a device has and can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channels {
    /// In use, combined ones and the larger of receive and transmit.
    pub current: u32,
    /// Possible, likewise.
    pub maximum: u32,
}

/// The driver's name.
pub fn driver(device: &str) -> io::Result<String> {
    let mut data = vec![0; DRVINFO_LENGTH];
    data[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
    ask(device, &mut data)?;
    let name = CStr::from_bytes_until_nul(&data[4..36]).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

/// The channels of `device`; an error if the driver does not say.
pub fn channels(device: &str) -> io::Result<Channels> {
    let mut data = vec![0; CHANNELS_LENGTH];
    data[..4].copy_from_slice(&ETHTOOL_GCHANNELS.to_ne_bytes());
    ask(device, &mut data)?;
    let word = |index: usize| u32::from_ne_bytes(std::array::from_fn(|byte| data[index * 4 + byte]));
    Ok(Channels { maximum: word(4) + word(1).max(word(2)), current: word(8) + word(5).max(word(6)) })
}

/// The driver's own statistics, as `ethtool -S` shows them; an error if it keeps none.
pub fn statistics(device: &str) -> io::Result<Vec<(String, u64)>> {
    let mut info = vec![0; DRVINFO_LENGTH];
    info[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
    ask(device, &mut info)?;
    let word = |data: &[u8], at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| data[at + byte]));
    let count = word(&info, DRVINFO_STATS_AT) as usize;
    if count > MOST_STATS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Should a driver have gained some meanwhile, there is room: the kernel writes what it has, whatever is asked for.
    let room = count + 256;
    let mut names = vec![0; 12 + room * STRING_LENGTH];
    names[..4].copy_from_slice(&ETHTOOL_GSTRINGS.to_ne_bytes());
    names[4..8].copy_from_slice(&STRINGS_OF_STATS.to_ne_bytes());
    names[8..12].copy_from_slice(&(count as u32).to_ne_bytes());
    ask(device, &mut names)?;
    let mut values = vec![0; 8 + room * 8];
    values[..4].copy_from_slice(&ETHTOOL_GSTATS.to_ne_bytes());
    values[4..8].copy_from_slice(&(count as u32).to_ne_bytes());
    ask(device, &mut values)?;
    let known = (word(&names, 8).min(word(&values, 4)) as usize).min(room);
    let statistic = |index: usize| {
        let name = &names[12 + index * STRING_LENGTH..][..STRING_LENGTH];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(STRING_LENGTH);
        let value = u64::from_ne_bytes(std::array::from_fn(|byte| values[8 + index * 8 + byte]));
        (String::from_utf8_lossy(&name[..end]).into_owned(), value)
    };
    Ok((0..known).map(statistic).collect())
}

fn ask(device: &str, data: &mut [u8]) -> io::Result<()> {
    let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(io::Error::from)?;
    if device.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: `ifreq` is a C struct of integers, arrays and pointers, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
    // SAFETY: the kernel reads the command at the start of `data` and writes at most the length of that
    // command's structure, which is what the callers allocated; both live until the call returns.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
