//! The same disk without the ordinary tools, for machines that have none: enough for the simulated hosts.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use super::{FAT, MIB, SIZE, vhd};

/// Makes the VHD in `dir`, with these files in its FAT partition.
pub fn make(contents: &[(&str, Vec<u8>)], dir: &Path) -> Result<PathBuf> {
    let mut disk = table()?;
    let start = (FAT.0 * MIB) as usize;
    let volume = volume(contents)?;
    disk[start..start + volume.len()].copy_from_slice(&volume);
    disk.extend(vhd::footer(SIZE));
    let path = dir.join("disk.vhd");
    fs::write(&path, disk)?;
    Ok(path)
}

/// The disk with its partition table alone.
fn table() -> Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; SIZE as usize]);
    let sectors = u32::try_from(SIZE / 512)?;
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors - 1).overwrite_lba0(&mut disk)?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .create_from_device(disk, None)?;
    let of_mib = |mib: u64| mib * MIB / 512;
    let (start, size) = FAT;
    let rest = SIZE / MIB - 1 - start - size;
    table.add_partition_at(
        "files",
        1,
        of_mib(start),
        of_mib(size),
        gpt::partition_types::BASIC,
        0,
    )?;
    table.add_partition_at(
        "scratch",
        2,
        of_mib(start + size),
        of_mib(rest),
        gpt::partition_types::LINUX_FS,
        0,
    )?;
    Ok(table.write()?.into_inner())
}

/// The FAT file system.
fn volume(contents: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut volume = Cursor::new(vec![0; (FAT.1 * MIB) as usize]);
    fatfs::format_volume(
        &mut volume,
        FormatVolumeOptions::new().volume_label(*b"PVDRIVERS  "),
    )?;
    let system = FileSystem::new(&mut volume, FsOptions::new())?;
    for (path, bytes) in contents {
        for (at, _) in path.match_indices('/') {
            system.root_dir().create_dir(&path[..at])?;
        }
        system.root_dir().create_file(path)?.write_all(bytes)?;
    }
    system
        .unmount()
        .map_err(|error| anyhow!("unmounting: {error}"))?;
    Ok(volume.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_written_can_be_read_back() {
        let contents = super::super::contents();
        let dir = std::env::temp_dir().join(format!("plain-disk-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = make(&contents, &dir).unwrap();
        vhd::hash(&path).unwrap();
        let disk = fs::read(&path).unwrap();
        fs::remove_dir_all(dir).unwrap();

        let table = gpt::GptConfig::new()
            .open_from_device(Cursor::new(disk[..SIZE as usize].to_vec()))
            .unwrap();
        let files = &table.partitions()[&1];
        assert_eq!((files.first_lba, files.last_lba), (2048, 51199));
        let volume = disk[2048 * 512..51200 * 512].to_vec();
        let system = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
        for (path, bytes) in contents {
            let mut read = Vec::new();
            system
                .root_dir()
                .open_file(path)
                .unwrap()
                .read_to_end(&mut read)
                .unwrap();
            assert_eq!(read, bytes, "{path}");
        }
    }
}
