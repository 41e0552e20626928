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
