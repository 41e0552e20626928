//! The tour: what it shows, what it leaves alone, and what it says of disks that are not as they should be.

use guest::memory::MemoryDisk;
use guest::report::File;

use crate::image;
use crate::machine::{disk, error_of, one, sha256};

pub fn some_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.TXT", b"hello\n".to_vec()),
        (
            "a rather long name, with spaces.text",
            image::noise(100_000),
        ),
        ("empty", vec![]),
        ("boot/grub/grub.cfg", image::noise(4097)),
        ("boot/ünïcode.bin", image::noise(512)),
        ("two\u{301}", image::noise(1)),
    ]
}

/// In the order a walk through the directories finds them.
pub fn expected(files: &[(&str, Vec<u8>)]) -> Vec<File> {
    let file = |(path, contents): &(&str, Vec<u8>)| File {
        path: (*path).into(),
        size: contents.len() as u64,
        sha256: sha256(contents),
    };
    let mut files: Vec<File> = files.iter().map(file).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

pub fn sorted(mut files: Vec<File>) -> Vec<File> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// A GPT disk with FAT of so many bytes in its first partition and a second partition behind it.
pub fn gpt_with_fat(bytes: usize) -> Vec<u8> {
    let last = 2048 + (bytes / image::SECTOR) as u64 - 1;
    let sectors = last + 1 + 4096 + 40;
    let mut disk = image::gpt(
        sectors,
        &[
            ("files", (2048, last)),
            ("scratch", (last + 1, last + 4096)),
        ],
    );
    image::place(&mut disk, 2048, &image::fat(bytes, &some_files()));
    let noise = image::noise(1 << 20);
    image::place(&mut disk, last + 1, &noise);
    disk
}

#[test]
fn a_tour_shows_partitions_files_and_hashes_and_leaves_no_trace() {
    for megabytes in [16, 40] {
        let bytes = gpt_with_fat(megabytes << 20);
        let (report, machine) = one(disk(bytes.clone()), "job=tour");
        assert!(report.ok, "{:?}", report.error);
        assert_eq!(
            (report.host.as_str(), report.bus.as_str()),
            ("xen", "xenbus")
        );
        let found = &report.disks[0];
        assert_eq!(found.sectors as usize, bytes.len() / 512);
        assert_eq!(found.sha256.as_deref(), Some(sha256(&bytes).as_str()));
        let names: Vec<_> = found
            .partitions
            .iter()
            .map(|p| (p.index, p.name.as_deref(), p.first))
            .collect();
        let second = 2048 + ((megabytes << 20) / 512) as u64;
        assert_eq!(
            names,
            [(1, Some("files"), 2048), (2, Some("scratch"), second)]
        );
        assert_eq!(
            found.partitions[0].kind,
            "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
        );
        assert_eq!(sorted(found.files.clone()), expected(&some_files()));
        assert_eq!(
            machine.disks[0].bytes(),
            bytes,
            "the scratch area is restored"
        );
        assert_eq!(machine.disks[0].flushes, 2);
        assert!(machine.said(&format!("wrote sectors {second} to {}", second + 2047)));
        assert!(machine.said("device: vbd-51712"));
    }
}

#[test]
fn a_tour_of_an_mbr_disk_uses_its_end_as_scratch() {
    let mut bytes = image::mbr(
        40_000,
        &[(0x83, 64, 100), (0x00, 0, 0), (0x0c, 2048, 32_768)],
    );
    image::place(&mut bytes, 2048, &image::fat(16 << 20, &some_files()));
    // Two partitions: the second one is the scratch area, and it holds the files, which come back.
    let (report, machine) = one(disk(bytes.clone()), "");
    assert!(report.ok, "{:?}", report.error);
    assert_eq!(report.disks[0].partitions[1].index, 3);
    assert_eq!(report.disks[0].partitions[1].kind, "0x0c");
    assert_eq!(report.disks[0].files.len(), 6);
    assert_eq!(machine.disks[0].bytes(), bytes);

    let mut bytes = image::mbr(40_000, &[(0x0c, 2048, 32_768)]);
    image::place(&mut bytes, 2048, &image::fat(16 << 20, &[]));
    let (report, machine) = one(disk(bytes), "");
    assert!(report.ok, "{:?}", report.error);
    assert!(machine.said(&format!("wrote sectors {} to 39999", 40_000 - 2048)));
}

#[test]
fn a_disk_that_is_one_file_system_needs_no_table() {
    let bytes = image::fat(16 << 20, &some_files());
    let (report, machine) = one(disk(bytes), "");
    assert!(report.ok, "{:?}", report.error);
    assert!(machine.said("no partition table"));
    assert_eq!(report.disks[0].partitions, []);
    assert_eq!(
        sorted(report.disks[0].files.clone()),
        expected(&some_files())
    );
}

#[test]
fn short_names_keep_their_case() {
    let mut bytes = image::fat(16 << 20, &[("READ.ME", vec![1]), ("NOTES", vec![2])]);
    for (name, flags) in [(b"READ    ME ", 0x08), (b"NOTES      ", 0x18)] {
        let at = bytes.windows(11).position(|found| found == name).unwrap();
        bytes[at + 12] |= flags;
        // The long form that stands before it is deleted.
        bytes[at - 32] = 0xe5;
    }
    let (report, _) = one(disk(bytes), "");
    let paths: Vec<_> = report.disks[0]
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(paths, ["read.ME", "notes"]);
}

#[test]
fn a_blank_disk_is_shown_as_one() {
    let (report, machine) = one(disk(vec![0; 4 << 20]), "");
    assert!(report.ok, "{:?}", report.error);
    assert!(machine.said("no partition table") && machine.said("no FAT file system"));
    let (report, machine) = one(MemoryDisk::new("sda", 4096, image::noise(1 << 20)), "");
    assert!(report.ok, "{:?}", report.error);
    assert!(machine.said("256 sectors of 4096 bytes"));
    assert_eq!(report.disks[0].sector_size, 4096);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut disk = disk(gpt_with_fat(16 << 20));
    disk.geometry.read_only = true;
    let (report, machine) = one(disk, "");
    assert!(report.ok, "{:?}", report.error);
    assert!(machine.said("read-only") && machine.said("nowhere to write"));
}

#[test]
fn a_disk_without_flush_is_toured_all_the_same() {
    let mut disk = disk(gpt_with_fat(16 << 20));
    disk.geometry.flush = false;
    let (report, machine) = one(disk, "");
    assert!(report.ok, "{:?}", report.error);
    assert!(!machine.said("flushed"));
}

#[test]
fn a_disk_smaller_than_its_table_says_is_a_clear_line() {
    let whole = gpt_with_fat(16 << 20);
    let cut = whole[..whole.len() - (1 << 20)].to_vec();
    let (report, machine) = one(disk(cut.clone()), "");
    let error = report.error.unwrap();
    assert!(
        error.contains("smaller than its partition table says: partition 2"),
        "{error}"
    );
    // It is described all the same, and not written to.
    assert_eq!(report.disks[0].partitions.len(), 2);
    assert_eq!(
        report.disks[0].sha256.as_deref(),
        Some(sha256(&cut).as_str())
    );
    assert_eq!(machine.disks[0].bytes(), cut);
    let mbr = image::mbr(100, &[(0x0c, 50, 51)]);
    assert!(error_of(disk(mbr), "").contains("partition 1 ends at sector 100 of 100"));
}

#[test]
fn wrong_magic_is_a_clear_line() {
    let mut no_header = gpt_with_fat(16 << 20);
    no_header[512] = b'X';
    assert!(error_of(disk(no_header), "").contains("wrong magic: no GPT header"));
    let mbr = image::mbr(40_000, &[(0x0c, 2048, 32_768)]);
    assert!(error_of(disk(mbr), "").contains("partition 1: wrong magic"));
    let mut flipped = gpt_with_fat(16 << 20);
    flipped[2 * 512 + 32] ^= 1;
    assert!(error_of(disk(flipped), "").contains("checksum"));
    let mut flipped = gpt_with_fat(16 << 20);
    flipped[512 + 40] ^= 1;
    assert!(error_of(disk(flipped), "").contains("checksum"));
}

#[test]
fn a_boot_sector_that_lies_is_refused() {
    let sound = image::fat(16 << 20, &some_files());
    // Clusters of no blocks, three FATs, more blocks than the disk, larger blocks.
    for (at, value, why) in [
        (13, 0, "makes no sense"),
        (16, 3, "makes no sense"),
        (23, 0xff, "makes no sense"),
        (12, 8, "blocks of 2048 bytes"),
    ] {
        let mut bytes = sound.clone();
        bytes[at] = value;
        let error = error_of(disk(bytes), "");
        assert!(error.contains(why), "{at}: {error}");
    }
}

#[test]
fn a_loop_of_directories_ends() {
    let mut bytes = image::fat(16 << 20, &[("deep/x", vec![1])]);
    // Every directory entry that points at a cluster of its own points at "deep" instead.
    let volume = fatfs::FileSystem::new(
        std::io::Cursor::new(&mut bytes[..]),
        fatfs::FsOptions::new(),
    )
    .unwrap();
    drop(volume);
    let entry = bytes
        .windows(11)
        .position(|name| name == b"DEEP       ")
        .unwrap();
    let cluster = [bytes[entry + 26], bytes[entry + 27]];
    let inner = bytes
        .windows(11)
        .position(|name| name == b"X          ")
        .unwrap();
    bytes[inner + 11] = 0x10;
    bytes[inner + 26..inner + 28].copy_from_slice(&cluster);
    assert!(error_of(disk(bytes), "").contains("deeper directories"));
}

#[test]
fn a_chain_that_loops_ends() {
    // A directory of deleted entries whose cluster chain leads back to itself.
    let mut bytes = image::fat(16 << 20, &[("d/x", vec![1])]);
    let entry = bytes
        .windows(11)
        .position(|name| name == b"D          ")
        .unwrap();
    let cluster = u16::from_le_bytes([bytes[entry + 26], bytes[entry + 27]]);
    let word = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (reserved, tables, table, root) =
        (word(14), usize::from(bytes[16]), word(22), word(17) * 32);
    let per_cluster = usize::from(bytes[13]) * 512;
    let data = (reserved + tables * table) * 512 + root + (usize::from(cluster) - 2) * per_cluster;
    bytes[data..data + per_cluster]
        .chunks_mut(32)
        .for_each(|entry| entry[0] = 0xe5);
    let link = reserved * 512 + usize::from(cluster) * 2;
    bytes[link..link + 2].copy_from_slice(&cluster.to_le_bytes());
    assert!(error_of(disk(bytes), "").contains("FAT"));
}
