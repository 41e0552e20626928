//! Partition tables: GPT through `gpt_disk_io`, MBR through its types.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use gpt_disk_io::{BlockIo, Disk, DiskError as GptError};
use gpt_disk_types::{BlockSize, GptHeader, GptPartitionType, Lba, MasterBootRecord, guid};

use crate::disk::{DiskError, Geometry, JobDisk};
use crate::report::Partition;

/// Why a partition table cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableError {
    /// The disk itself failed.
    Disk(DiskError),
    /// The MBR says there is a GPT, but its header has another signature.
    NoGptSignature,
    /// The GPT's header or its array of partitions does not match its checksum.
    GptChecksum,
    /// The GPT's header makes no sense.
    GptHeader,
    /// A partition ends beyond the disk.
    BeyondEnd {
        /// The partition's number.
        index: u32,
        /// Its last sector.
        last: u64,
        /// The disk's size in sectors.
        sectors: u64,
    },
    /// A partition ends before it begins.
    Reversed(u32),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "reading the partition table: {error}"),
            Self::NoGptSignature => {
                f.write_str("wrong magic: no GPT header where the MBR promises one")
            }
            Self::GptChecksum => f.write_str("the GPT does not match its checksum"),
            Self::GptHeader => f.write_str("the GPT header makes no sense"),
            Self::BeyondEnd {
                index,
                last,
                sectors,
            } => write!(
                f,
                "the disk is smaller than its partition table says: partition {index} ends at sector {last} of {sectors}"
            ),
            Self::Reversed(index) => write!(f, "partition {index} ends before it begins"),
        }
    }
}

impl core::error::Error for TableError {}

/// What kind of table a disk has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// No table: sector 0 has no signature, or is itself a file system's boot sector.
    None,
    /// A master boot record.
    Mbr,
    /// A GUID partition table.
    Gpt,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no partition table",
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
        })
    }
}

/// A disk's partition table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its kind.
    pub scheme: Scheme,
    /// Its entries in use.
    pub partitions: Vec<Partition>,
}

/// The MBR type that guards a GPT.
const PROTECTIVE: u8 = 0xee;
/// The EFI system partition's type.
const EFI_SYSTEM: GptPartitionType =
    GptPartitionType(guid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"));
/// More entries than this are not looked for; the usual number is 128.
const MOST_ENTRIES: u32 = 1024;
/// Longest array of entries read, in bytes.
const MOST_ARRAY: usize = 1 << 20;

impl Table {
    /// Reads a disk's table.
    ///
    /// # Errors
    /// [`TableError`]; [`TableError::BeyondEnd`] and [`TableError::Reversed`] come with the table, as it is worth
    /// showing all the same.
    pub fn read(disk: &mut dyn JobDisk) -> Result<Self, (TableError, Self)> {
        let mut table = Self {
            scheme: Scheme::None,
            partitions: Vec::new(),
        };
        match table.fill(disk).and_then(|()| table.check(disk.geometry())) {
            Ok(()) => Ok(table),
            Err(error) => Err((error, table)),
        }
    }

    fn fill(&mut self, disk: &mut dyn JobDisk) -> Result<(), TableError> {
        let mut sector = vec![0; disk.geometry().sector_bytes()];
        disk.read(0, &mut sector).map_err(TableError::Disk)?;
        let Some(bytes) = sector.first_chunk::<{ size_of::<MasterBootRecord>() }>() else {
            return Ok(());
        };
        let record: MasterBootRecord = bytemuck::pod_read_unaligned(bytes);
        if record.signature != [0x55, 0xaa] || crate::fat::is_boot_sector(&sector) {
            return Ok(());
        }
        if record
            .partitions
            .iter()
            .any(|p| p.os_indicator == PROTECTIVE)
        {
            self.scheme = Scheme::Gpt;
            self.partitions = read_gpt(disk)?;
            return Ok(());
        }
        self.scheme = Scheme::Mbr;
        for (index, entry) in (1_u32..).zip(record.partitions) {
            let (first, count) = (entry.starting_lba.to_u32(), entry.size_in_lba.to_u32());
            if entry.os_indicator != 0 && count != 0 {
                self.partitions.push(Partition {
                    index,
                    kind: format!("{:#04x}", entry.os_indicator),
                    name: None,
                    first: u64::from(first),
                    last: u64::from(first)
                        .saturating_add(u64::from(count))
                        .saturating_sub(1),
                });
            }
        }
        Ok(())
    }

    fn check(&self, geometry: Geometry) -> Result<(), TableError> {
        for partition in &self.partitions {
            if partition.last < partition.first {
                return Err(TableError::Reversed(partition.index));
            }
            if partition.last >= geometry.sectors {
                return Err(TableError::BeyondEnd {
                    index: partition.index,
                    last: partition.last,
                    sectors: geometry.sectors,
                });
            }
        }
        Ok(())
    }
}

/// Whether a partition's type promises a FAT file system.
pub fn promises_fat(partition: &Partition) -> bool {
    const MBR_FAT: [&str; 7] = ["0x01", "0x04", "0x06", "0x0b", "0x0c", "0x0e", "0xef"];
    let kind = partition.kind.as_str();
    MBR_FAT.contains(&kind) || kind == EFI_SYSTEM.to_string()
}

struct Blocks<'a>(&'a mut dyn JobDisk, BlockSize);

impl BlockIo for Blocks<'_> {
    type Error = DiskError;

    fn block_size(&self) -> BlockSize {
        self.1
    }

    fn num_blocks(&mut self) -> Result<u64, DiskError> {
        Ok(self.0.geometry().sectors)
    }

    fn read_blocks(&mut self, start: Lba, into: &mut [u8]) -> Result<(), DiskError> {
        self.0.read(start.to_u64(), into)
    }

    fn write_blocks(&mut self, _: Lba, _: &[u8]) -> Result<(), DiskError> {
        Err(DiskError::ReadOnly)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

fn read_gpt(disk: &mut dyn JobDisk) -> Result<Vec<Partition>, TableError> {
    let from_library = |error| match error {
        GptError::Io(error) => TableError::Disk(error),
        _ => TableError::GptHeader,
    };
    let size = disk.geometry().sector_bytes();
    let block_size = BlockSize::from_usize(size).ok_or(TableError::GptHeader)?;
    let mut gpt = Disk::new(Blocks(disk, block_size)).map_err(from_library)?;
    let mut block = vec![0; size];
    let header = gpt
        .read_primary_gpt_header(&mut block)
        .map_err(from_library)?;
    if !header.is_signature_valid() {
        return Err(TableError::NoGptSignature);
    }
    // The checksum covers exactly the header's fields only when it is as long as they are; others are unheard of.
    if header.header_size.to_u32() as usize != size_of::<GptHeader>() {
        return Err(TableError::GptHeader);
    }
    if header.calculate_header_crc32() != header.header_crc32 {
        return Err(TableError::GptChecksum);
    }
    let layout = header
        .get_partition_entry_array_layout()
        .map_err(|_| TableError::GptHeader)?;
    let bytes = layout
        .num_bytes_rounded_to_block_as_usize(block_size)
        .filter(|&bytes| bytes <= MOST_ARRAY && layout.num_entries <= MOST_ENTRIES)
        .ok_or(TableError::GptHeader)?;
    let mut storage = vec![0; bytes];
    let array = gpt
        .read_gpt_partition_entry_array(layout, &mut storage)
        .map_err(from_library)?;
    if array.calculate_crc32() != header.partition_entry_array_crc32 {
        return Err(TableError::GptChecksum);
    }
    let mut found = Vec::new();
    for slot in 0..layout.num_entries {
        let Some(entry) = array
            .get_partition_entry(slot)
            .filter(|entry| entry.is_used())
        else {
            continue;
        };
        let (kind, name) = (entry.partition_type_guid, entry.name);
        let name = name.to_string();
        found.push(Partition {
            index: slot.saturating_add(1),
            kind: kind.to_string(),
            name: Some(name).filter(|name: &String| !name.is_empty()),
            first: entry.starting_lba.to_u64(),
            last: entry.ending_lba.to_u64(),
        });
    }
    Ok(found)
}
