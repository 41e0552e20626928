//! The comparison itself, and that it would notice.

use layout_check::{Error, claims, compare, headers};
use std::path::{Path, PathBuf};

fn include() -> PathBuf {
    let named = std::env::var_os("PV_XEN_HEADERS").map(PathBuf::from);
    headers(named.as_deref()).unwrap()
}

#[test]
#[ignore = "needs Xen's C headers: Debian's libxen-dev, named by PV_XEN_HEADERS"]
fn every_struct_and_number_is_as_the_headers_say() {
    let report = compare(&claims(), &include()).unwrap();
    assert!(report.compared > 400, "{}", report.compared);
    assert!(report.absent.len() < 8, "{:?}", report.absent);
    assert_eq!(report.mismatches, []);
}

#[test]
#[ignore = "needs Xen's C headers: Debian's libxen-dev, named by PV_XEN_HEADERS"]
fn a_wrong_number_is_noticed() {
    let mut wrong = claims();
    wrong.all[3].rust += 1;
    let report = compare(&wrong, &include()).unwrap();
    assert_eq!(report.mismatches.len(), 1);
    assert_eq!(report.mismatches[0].c, wrong.all[3].c);
    wrong.number("test", "NO_SUCH_NUMBER_IN_XEN", 1);
    assert!(matches!(
        compare(&wrong, &include()),
        Err(Error::Compiler(_))
    ));
}

#[test]
fn missing_headers_are_an_error() {
    let nowhere = Path::new("/nonexistent");
    assert!(matches!(headers(Some(nowhere)), Err(Error::NoHeaders(_))));
}

/// Names a file declares as `pub struct` or `pub const`.
fn declared(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim_start();
            // An operand of the model is declared as `Name, bytes {`.
            let operand = line.contains('{') && line.starts_with(char::is_uppercase);
            let rest = operand
                .then_some(line)
                .or(line.strip_prefix("pub struct "))
                .or(line.strip_prefix("pub const "))?;
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
        })
        .collect()
}

#[test]
fn nothing_declared_is_left_out() {
    let drivers = include_str!("../src/drivers.rs");
    let model = include_str!("../src/model.rs");
    // What the headers do not define, and why.
    let exempt = [
        "E820Entry", // the BIOS's
        "PAGE",      // the processor's
        "DOM0",      // a convention
        "SIZE",      // of E820Entry
        "SIGNATURE", // compared word by word
    ];
    for (file, text, compared) in [
        (
            "hypercall",
            include_str!("../../../hypercall/src/xen/abi.rs"),
            drivers,
        ),
        (
            "xenbus",
            include_str!("../../../xenbus/src/wire.rs"),
            drivers,
        ),
        (
            "blkfront",
            include_str!("../../../blkfront/src/blkif/abi.rs"),
            drivers,
        ),
        ("model", include_str!("../../src/xen/abi/mod.rs"), model),
        ("model ops", include_str!("../../src/xen/abi/ops.rs"), model),
        (
            "model pages",
            include_str!("../../src/xen/abi/pages.rs"),
            model,
        ),
        (
            "model blkif",
            include_str!("../../src/xen/abi/blkif.rs"),
            model,
        ),
    ] {
        let names = declared(text);
        assert!(names.len() > 3, "{file}: {names:?}");
        for name in names {
            let compared = compared
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == name);
            assert!(
                compared || exempt.contains(&name),
                "{file}: {name} is compared with nothing"
            );
        }
    }
}
