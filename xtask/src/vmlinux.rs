//! Takes the ELF kernel out of a bzImage, for loaders that want one.
//! Source: Linux `Documentation/arch/x86/boot.rst` (`setup_sects`, `payload_offset`, `payload_length`).

use std::io::Read;

use anyhow::{Context, Result, bail};

/// The `vmlinux` inside `image`.
///
/// # Errors
/// When it is no bzImage of protocol 2.08 or later, or not compressed with zstd, as Debian's is.
pub fn extract(image: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image
            .get(at..at + 4)
            .context("the kernel image ends within its header")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("the kernel image is no bzImage");
    }
    // Zero means four, for the sake of the oldest loaders.
    let sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let start = (sectors + 1) * 512 + word(0x248)?;
    let payload = image
        .get(start..start + word(0x24c)?)
        .context("the kernel image is shorter than its payload")?;
    let mut elf = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(payload)
        .map_err(|e| anyhow::anyhow!("the kernel's payload is not zstd: {e}"))?
        .read_to_end(&mut elf)?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("the kernel's payload is no ELF file");
    }
    Ok(elf)
}

#[cfg(test)]
mod tests {
    #[test]
    fn noise_is_refused() {
        assert!(super::extract(b"short").is_err());
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c] = 0xff;
        image[0x24d] = 0xff;
        assert!(super::extract(&image).is_err());
    }
}
