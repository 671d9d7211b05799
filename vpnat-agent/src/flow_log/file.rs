//! Lines into a file, which is rotated by size and may be rotated by others.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What was written is on the disk after this long at the latest.
pub const SYNC_EVERY: Duration = Duration::from_secs(5);

/// How often the file is looked for under its name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a file is rotated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// Largest size, bytes.
    pub max_bytes: u64,
    /// Older files that are kept: `name.1` is the youngest.
    pub keep: u32,
}

/// The file that is written to now.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
    /// When the oldest data that may not be on the disk yet was written.
    unsynced: Option<Instant>,
    looked: Instant,
    /// A write has failed half-way: the next line must not continue it.
    torn: bool,
}

impl LogFile {
    /// Opens `path` for appending; makes it, and the directory that it is in, if need be.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let (file, bytes, torn) = open(path)?;
        let path = path.to_owned();
        Ok(Self { path, rotation, file, bytes, unsynced: None, looked: Instant::now(), torn })
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.look()?;
        }
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.rotation.max_bytes {
            self.rotate()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        // Until all of it is there.
        self.torn = true;
        self.file.write_all(lines)?;
        self.torn = false;
        self.bytes += lines.len() as u64;
        self.unsynced.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Puts on the disk what has waited for long enough; `all` of it if this is the end.
    pub fn sync(&mut self, all: bool) -> io::Result<()> {
        if self.unsynced.is_some_and(|since| all || since.elapsed() >= SYNC_EVERY) {
            self.file.sync_data()?;
            self.unsynced = None;
        }
        Ok(())
    }

    /// Whoever has moved the file away wants a new one under its name.
    fn look(&mut self) -> io::Result<()> {
        self.looked = Instant::now();
        let ours = self.file.metadata()?;
        let moved = match fs::metadata(&self.path) {
            Ok(named) => (named.dev(), named.ino()) != (ours.dev(), ours.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if moved {
            self.sync(true)?;
            (self.file, self.bytes, self.torn) = open(&self.path)?;
        } else {
            // Copied and truncated by somebody, perhaps.
            self.bytes = ours.len();
        }
        Ok(())
    }

    /// `name.1` becomes `name.2` and so on; this file becomes `name.1`.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync(true)?;
        if self.rotation.keep == 0 {
            fs::remove_file(&self.path)?;
        }
        for number in (1..=self.rotation.keep).rev() {
            let from = if number == 1 { self.path.clone() } else { numbered(&self.path, number - 1) };
            match fs::rename(from, numbered(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.bytes, self.torn) = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64, bool)> {
    let file = OpenOptions::new().create(true).append(true).read(true).mode(0o640).open(path)?;
    let bytes = file.metadata()?.len();
    // An agent that was killed may have left half a line.
    let mut last = [b'\n'];
    if bytes > 0 {
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, bytes - 1)?;
    }
    Ok((file, bytes, last != [b'\n']))
}

/// The name of a rotated file.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The file and those that were rotated, oldest first, as far as there are any.
pub fn all_of(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        (1..).map(|number| numbered(path, number)).take_while(|path| path.exists()).collect();
    files.reverse();
    files.extend(path.exists().then(|| path.to_owned()));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vpnat-log-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn it_is_rotated_by_size_and_no_line_is_cut() {
        let folder = Folder::new("size");
        let path = folder.0.join("flows.jsonl");
        let mut log = LogFile::open(&path, Rotation { max_bytes: 10, keep: 2 }).unwrap();
        for number in 0..7 {
            log.write(format!("line{number}\n").as_bytes()).unwrap();
        }
        log.sync(true).unwrap();
        let files = all_of(&path);
        let texts: Vec<_> = files.iter().map(|path| text(path)).collect();
        assert_eq!(texts, ["line4\n", "line5\n", "line6\n"], "the oldest are gone");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = Folder::new("moved");
        let path = folder.0.join("flows.jsonl");
        let mut log = LogFile::open(&path, Rotation { max_bytes: 1 << 20, keep: 2 }).unwrap();
        log.write(b"first\n").unwrap();
        fs::rename(&path, folder.0.join("elsewhere")).unwrap();
        log.looked = Instant::now() - LOOK_EVERY;
        log.write(b"second\n").unwrap();
        assert_eq!((text(&folder.0.join("elsewhere")), text(&path)), ("first\n".into(), "second\n".into()));
    }

    #[test]
    fn half_a_line_is_not_continued() {
        let folder = Folder::new("torn");
        fs::create_dir_all(&folder.0).unwrap();
        let path = folder.0.join("flows.jsonl");
        fs::write(&path, "{\"half").unwrap();
        let mut log = LogFile::open(&path, Rotation { max_bytes: 1 << 20, keep: 1 }).unwrap();
        log.write(b"whole\n").unwrap();
        log.write(b"more\n").unwrap();
        assert_eq!(text(&path), "{\"half\nwhole\nmore\n");
    }
}
