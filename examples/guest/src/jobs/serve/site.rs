//! What is served: the files of a file system, and a page that lists them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use crate::disk::JobDisk;
use crate::fat::{Entry, Volume};
use crate::jobs::JobError;
use crate::jobs::tour::first_fat;
use crate::partition::Table;

/// The files, and the disk they are on.
pub struct Site<'a> {
    volume: Volume<'a>,
    files: Vec<Entry>,
    index: String,
}

/// Something that can be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// The list of files.
    Index,
    /// A file, by its place in the list.
    File(usize),
}

impl<'a> Site<'a> {
    /// The first FAT file system of all disks.
    pub fn find<D: JobDisk>(disks: &'a mut [D]) -> Result<Self, JobError> {
        let mut trouble = None;
        for disk in disks {
            let name = disk.name().to_string();
            let table = match Table::read(disk) {
                Ok(table) => table,
                Err((error, _)) => {
                    trouble = trouble.or(Some(JobError(format!("{name}: {error}"))));
                    continue;
                }
            };
            match first_fat(disk, &table) {
                Ok(Some(extent)) => {
                    let failed = |error| JobError(format!("{name}: {error}"));
                    let volume = Volume::open(disk, extent).map_err(failed)?;
                    let files = volume.list().map_err(failed)?;
                    return Ok(Self::new(volume, files));
                }
                Ok(None) => {}
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        Err(trouble.unwrap_or_else(|| JobError("no disk with a FAT file system".into())))
    }

    fn new(volume: Volume<'a>, files: Vec<Entry>) -> Self {
        let mut index =
            String::from("<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>Files</title>\n<ul>\n");
        for file in &files {
            let _ = writeln!(
                index,
                "<li><a href=\"/{}\">{}</a> {} bytes",
                Encoded(&file.path),
                Escaped(&file.path),
                file.size
            );
        }
        index.push_str("</ul>\n");
        Self {
            volume,
            files,
            index,
        }
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// What a path leads to.
    pub fn page(&self, path: &str) -> Option<Page> {
        if path.is_empty() {
            return Some(Page::Index);
        }
        let found = self.files.iter().position(|file| file.path == path);
        found.map(Page::File)
    }

    /// Its size in bytes.
    pub fn size(&self, page: Page) -> u64 {
        match page {
            Page::Index => self.index.len() as u64,
            Page::File(index) => self.files.get(index).map_or(0, |file| file.size.into()),
        }
    }

    /// Fills `into` with bytes from `offset` on; how many, or `None` when the disk fails.
    pub fn read(&mut self, page: Page, offset: u64, into: &mut [u8]) -> Option<usize> {
        match page {
            Page::Index => {
                let rest = self.index.as_bytes().get(usize::try_from(offset).ok()?..)?;
                into.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                Some(rest.len().min(into.len()))
            }
            Page::File(index) => {
                let file = self.files.get(index)?;
                let offset = u32::try_from(offset).ok()?;
                self.volume.read(file, offset, into).ok()
            }
        }
    }
}

/// A path in a URL.
struct Encoded<'a>(&'a str);

impl core::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    f.write_char(char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

/// Text in HTML.
struct Escaped<'a>(&'a str);

impl core::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}
