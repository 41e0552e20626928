//! The smallest kernel that proves a virtual machine runs: a PVH ELF of a few instructions that says
//! `TINY` on the debug port 0xe9 and on COM1, leaves through QEMU's debug-exit device, else halts.
//! Source: Xen `docs/misc/pvh.pandoc` (32-bit entry), `public/elfnote.h` (note type 18), the ELF specification.

/// Where it is loaded.
const BASE: u32 = 0x10_0000;
const HEADERS: u32 = 52 + 2 * 32;
const NOTE: u32 = 20;
const ENTRY: u32 = BASE + HEADERS + NOTE;

/// The program before its text, in 32-bit protected mode without a stack. The address of the text goes first.
#[rustfmt::skip]
const LOOP: [u8; 20] = [
    0xac,                    // 1: lodsb
    0x84, 0xc0,              //    test al, al
    0x74, 0x09,              //    jz 2f
    0xe6, 0xe9,              //    out 0xe9, al
    0x66, 0xba, 0xf8, 0x03,  //    mov dx, 0x3f8
    0xee,                    //    out dx, al
    0xeb, 0xf2,              //    jmp 1b
    0xe6, 0xf4,              // 2: out 0xf4, al
    0xfa,                    //    cli
    0xf4,                    // 3: hlt
    0xeb, 0xfd,              //    jmp 3b
];

/// The ELF file.
pub fn elf() -> Vec<u8> {
    // mov esi, text
    let mut code = vec![0xbe];
    code.extend((ENTRY + 5 + LOOP.len() as u32).to_le_bytes());
    code.extend(LOOP);
    code.extend(b"TINY\n\0");
    let size = HEADERS + NOTE + code.len() as u32;

    // 32-bit, little-endian, current version
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves =
        |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let words =
        |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    halves(&mut elf, &[2, 3]); // executable, 386
    words(&mut elf, &[1, ENTRY, 52, 0, 0]);
    halves(&mut elf, &[52, 32, 2, 40, 0, 0]);
    // type, offset, vaddr, paddr, filesz, memsz, flags, align
    words(&mut elf, &[1, 0, BASE, BASE, size, size, 7, 0x1000]);
    words(
        &mut elf,
        &[4, HEADERS, BASE + HEADERS, BASE + HEADERS, NOTE, NOTE, 4, 4],
    );
    // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    words(&mut elf, &[4, 4, 18]);
    elf.extend(b"Xen\0");
    words(&mut elf, &[ENTRY]);
    elf.extend(code);
    elf
}

#[cfg(test)]
mod tests {
    use object::Endianness;
    use object::elf::FileHeader32;
    use object::read::elf::{FileHeader, ProgramHeader};

    #[test]
    fn it_is_an_elf_file_with_a_pvh_note() {
        let elf = super::elf();
        let header = FileHeader32::<Endianness>::parse(elf.as_slice()).unwrap();
        let endian = header.endian().unwrap();
        let segments = header.program_headers(endian, elf.as_slice()).unwrap();
        assert_eq!(segments.len(), 2);
        let mut notes = segments[1].notes(endian, elf.as_slice()).unwrap().unwrap();
        let note = notes.next().unwrap().unwrap();
        assert_eq!(
            (note.name(), note.n_type(endian)),
            (&b"Xen"[..], object::elf::NoteType(18))
        );
        assert_eq!(note.desc(), super::ENTRY.to_le_bytes());
    }
}
