//! `layout-check [INCLUDE_DIR]`: 0 when everything agrees, 1 when something does not, 2 when there
//! is nothing to compare with.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let argument = std::env::args_os().nth(1);
    let named = argument
        .or_else(|| std::env::var_os("PV_XEN_HEADERS"))
        .map(PathBuf::from);
    let claims = layout_check::claims();
    let include = layout_check::headers(named.as_deref());
    let report = include.and_then(|include| {
        println!("Xen headers: {}", include.display());
        layout_check::compare(&claims, &include)
    });
    match report {
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Ok(report) => {
            for mismatch in &report.mismatches {
                println!("{mismatch}");
            }
            if !report.absent.is_empty() {
                println!("not in these headers: {}", report.absent.join(", "));
            }
            let wrong = report.mismatches.len();
            println!("{} compared, {wrong} differ", report.compared);
            ExitCode::from(u8::from(wrong > 0))
        }
    }
}
