//! The archive that a kernel unpacks into its first root file system: cpio, format "newc".

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Every part of an archive starts at a multiple of this.
const ALIGNMENT: usize = 4;

/// An archive that is being written. Paths have no leading slash; folders above a path are made.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder.
    pub fn folder(&mut self, path: &str) {
        if !self.folders.contains(path) {
            self.parents(path);
            self.folders.insert(path.to_owned());
            self.entry(path, DIRECTORY | 0o755, &[]);
        }
    }

    /// Adds a file that can be read only.
    pub fn file(&mut self, path: &str, data: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | 0o644, data);
    }

    /// Adds a program.
    pub fn program(&mut self, path: &str, data: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | 0o755, data);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(data.len()).expect("a file of less than 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a short path");
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        // Inode, mode, owner, group, links, time, size, two device numbers twice, name's size, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(bytes: &[u8], number: usize) -> u32 {
        let text = std::str::from_utf8(&bytes[6 + number * 8..][..8]).expect("digits");
        u32::from_str_radix(text, 16).expect("a hexadecimal number")
    }

    /// Path, mode and data of each entry.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let (size, name_size) = (field(bytes, 6) as usize, field(bytes, 11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).expect("a name");
            assert_eq!(bytes[110 + name_size - 1], 0);
            let start = (110 + name_size).next_multiple_of(4);
            entries.push((name, field(bytes, 1), bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn entries_are_read_back_with_their_folders_before_them() {
        let mut archive = Archive::default();
        archive.program("usr/bin/tool", b"tool");
        archive.file("usr/bin/data", b"12345");
        archive.link("bin", "usr/bin");
        let entries = read(&archive.finish());
        let expected = [
            ("usr", 0o040_755, ""),
            ("usr/bin", 0o040_755, ""),
            ("usr/bin/tool", 0o100_755, "tool"),
            ("usr/bin/data", 0o100_644, "12345"),
            ("bin", 0o120_777, "usr/bin"),
            ("TRAILER!!!", 0, ""),
        ];
        let expected: Vec<_> = expected
            .map(|(path, mode, data)| (path.to_owned(), mode, data.as_bytes().to_vec()))
            .into_iter()
            .collect();
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_header_is_hexadecimal_text() {
        let mut archive = Archive::default();
        archive.file("a", b"xyz");
        let bytes = archive.finish();
        let header = "070701\
            00000001000081a4000000000000000000000001000000000000000300000000000000000000000000000000\
            0000000200000000a\0xyz\0";
        // Thirteen fields of eight digits, the name, which ends at a multiple of four, and the padded data.
        assert_eq!(String::from_utf8_lossy(&bytes[..header.len()]), header);
    }
}
