//! Disk images made by other hands than the guest's: `fatfs` writes the file systems, `gpt_disk_io` the tables.

use std::io::{Cursor, Write};

use gpt_disk_io::{BlockIoAdapter, Disk};
use gpt_disk_types::{
    BlockSize, GptHeader, GptPartitionEntry, GptPartitionEntryArray, GptPartitionType, LbaLe,
    U32Le, guid,
};

pub const SECTOR: usize = 512;

/// A run of sectors, last one included.
pub type Run = (u64, u64);

/// FAT's bytes with these files, each a path and its contents; directories are made as needed.
pub fn fat(bytes: usize, files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut image = Cursor::new(vec![0; bytes]);
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"PVDRIVERS  ");
    fatfs::format_volume(&mut image, options).unwrap();
    let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new()).unwrap();
    for (path, contents) in files {
        for (at, _) in path.match_indices('/') {
            volume.root_dir().create_dir(&path[..at]).unwrap();
        }
        let mut file = volume.root_dir().create_file(path).unwrap();
        file.write_all(contents).unwrap();
    }
    volume.unmount().unwrap();
    image.into_inner()
}

/// A GPT disk of so many sectors with named partitions.
pub fn gpt(sectors: u64, partitions: &[(&str, Run)]) -> Vec<u8> {
    let mut image = vec![0; sectors as usize * SECTOR];
    let mut block = [0; SECTOR];
    let mut storage = [0; 32 * SECTOR];
    let header_at = |at: u64, other: u64, array: u64| GptHeader {
        my_lba: LbaLe::from_u64(at),
        alternate_lba: LbaLe::from_u64(other),
        first_usable_lba: LbaLe::from_u64(34),
        last_usable_lba: LbaLe::from_u64(sectors - 34),
        partition_entry_lba: LbaLe::from_u64(array),
        number_of_partition_entries: U32Le::from_u32(128),
        ..GptHeader::default()
    };
    let mut first = header_at(1, sectors - 1, 2);
    let mut second = header_at(sectors - 1, 1, sectors - 33);
    let layout = first.get_partition_entry_array_layout().unwrap();
    let mut array = GptPartitionEntryArray::new(layout, BlockSize::BS_512, &mut storage).unwrap();
    for (slot, (name, (start, end))) in (0..).zip(partitions) {
        *array.get_partition_entry_mut(slot).unwrap() = GptPartitionEntry {
            partition_type_guid: GptPartitionType(guid!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")),
            starting_lba: LbaLe::from_u64(*start),
            ending_lba: LbaLe::from_u64(*end),
            name: name.parse().unwrap(),
            ..GptPartitionEntry::default()
        };
    }
    let checksum = array.calculate_crc32();
    for header in [&mut first, &mut second] {
        header.partition_entry_array_crc32 = checksum;
        header.update_header_crc32();
    }
    let adapter = BlockIoAdapter::new(image.as_mut_slice(), BlockSize::BS_512);
    let mut disk = Disk::new(adapter).unwrap();
    disk.write_protective_mbr(&mut block).unwrap();
    disk.write_primary_gpt_header(&first, &mut block).unwrap();
    disk.write_secondary_gpt_header(&second, &mut block)
        .unwrap();
    disk.write_gpt_partition_entry_array(&array).unwrap();
    array.set_start_lba(gpt_disk_types::Lba(sectors - 33));
    disk.write_gpt_partition_entry_array(&array).unwrap();
    drop(disk);
    image
}

/// An MBR disk with these entries: type, first sector, sectors.
pub fn mbr(sectors: u64, partitions: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut image = vec![0; sectors as usize * SECTOR];
    for (slot, (kind, first, count)) in partitions.iter().enumerate() {
        let entry = &mut image[446 + 16 * slot..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
    }
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

/// Puts bytes at a sector.
pub fn place(image: &mut [u8], sector: u64, bytes: &[u8]) {
    image[sector as usize * SECTOR..][..bytes.len()].copy_from_slice(bytes);
}

/// Bytes that differ from place to place.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u32 | 1;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| byte()).collect()
}
