//! The C program: written, compiled, run, read.

use super::claims::Claims;
use super::{Error, Mismatch, Report};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// What the claims need. The interface version asks for the layouts of Xen 4.7 and later.
const HEADERS: &str = "\
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#define __XEN_INTERFACE_VERSION__ 0x00040a00
#include <xen/xen.h>
#include <xen/version.h>
#include <xen/features.h>
#include <xen/memory.h>
#include <xen/event_channel.h>
#include <xen/grant_table.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/hvm/hvm_op.h>
#include <xen/hvm/params.h>
#include <xen/arch-x86/cpuid.h>
#include <xen/io/ring.h>
#include <xen/io/blkif.h>
#include <xen/io/netif.h>
#include <xen/io/console.h>
#include <xen/io/xenbus.h>
#include <errno.h>
#include <xen/io/xs_wire.h>
";

fn source(claims: &Claims) -> String {
    let mut text = HEADERS.to_string();
    text.push_str("int main(void) {\n");
    for claim in &claims.all {
        let print = format!("printf(\"%lld\\n\", (long long)({}));", claim.c);
        // Writing to a string cannot fail.
        let _ = match claim.optional {
            true => writeln!(
                text,
                "#ifdef {}\n{print}\n#else\nputs(\"absent\");\n#endif",
                claim.c
            ),
            false => writeln!(text, "{print}"),
        };
    }
    text.push_str("return 0;\n}\n");
    text
}

pub(super) fn compare(claims: &Claims, include: &Path) -> Result<Report, Error> {
    let unique = std::thread::current().id();
    let dir = std::env::temp_dir().join(format!("layout-check-{}-{unique:?}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = run(claims, include, &dir);
    std::fs::remove_dir_all(&dir)?;
    read(claims, &result?)
}

fn run(claims: &Claims, include: &Path, dir: &Path) -> Result<String, Error> {
    let (source_file, program) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&source_file, source(claims))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(&compiler)
        .args(["-std=gnu11", "-m64", "-I"])
        .arg(include)
        .arg("-o")
        .arg(&program)
        .arg(&source_file)
        .output()
        .map_err(|error| Error::Compiler(format!("{}: {error}", compiler.display())))?;
    if !compiled.status.success() {
        let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
        return Err(Error::Compiler(said));
    }
    let ran = Command::new(&program).output()?;
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

fn read(claims: &Claims, printed: &str) -> Result<Report, Error> {
    let lines: Vec<&str> = printed.lines().collect();
    if lines.len() != claims.all.len() {
        return Err(Error::Output(printed.to_string()));
    }
    let mut report = Report::default();
    for (claim, line) in claims.all.iter().zip(lines) {
        if line == "absent" && claim.optional {
            report.absent.push(claim.c.clone());
            continue;
        }
        let header = line.parse().map_err(|_| Error::Output(line.to_string()))?;
        report.compared += 1;
        if header != claim.rust {
            report.mismatches.push(Mismatch {
                from: claim.from,
                c: claim.c.clone(),
                rust: claim.rust,
                header,
            });
        }
    }
    Ok(report)
}
