//! Every set of features of every library, on the target without an operating system.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cargo;

/// The libraries, in the order of their dependencies.
const LIBRARIES: [&str; 6] = [
    "pv-hypercall",
    "pv-xenbus",
    "pv-vmbus",
    "pv-blkfront",
    "pv-netfront",
    "pv-drivers",
];
/// Needs an operating system: for tests and simulated hosts only.
const HOSTED: [&str; 2] = ["std", "hosted"];
/// Adapters to other libraries. They have nothing to do with each other, so each is tried alone and
/// all are tried together, with every set of the other features.
const ADAPTERS: [&str; 5] = [
    "block-device-driver",
    "embassy-net-driver",
    "embedded-sdmmc",
    "gpt_disk_io",
    "smoltcp",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    features: BTreeMap<String, Vec<String>>,
}

/// Each library with the features that count.
pub fn libraries() -> Result<Vec<(String, Vec<String>)>> {
    let output = cargo::command(None)
        .args(["metadata", "--format-version=1", "--no-deps"])
        .output()?;
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    LIBRARIES
        .iter()
        .map(|library| {
            let package = metadata
                .packages
                .iter()
                .find(|p| p.name == *library)
                .with_context(|| format!("no package {library}"))?;
            let counts = |name: &&String| *name != "default" && !HOSTED.contains(&name.as_str());
            Ok((
                package.name.clone(),
                package.features.keys().filter(counts).cloned().collect(),
            ))
        })
        .collect()
}

/// Lints a library with each set of its features, warnings denied.
pub fn check(package: &str, features: &[String]) -> Result<()> {
    // The front door refuses to be built without a host behind it.
    let hostless = |set: &Vec<String>| {
        package == "pv-drivers" && !set.iter().any(|f| f == "xen" || f == "hyperv")
    };
    for set in sets(features).into_iter().filter(|set| !hostless(set)) {
        let mut clippy = cargo::command(None);
        clippy.args([
            "clippy",
            "--quiet",
            "--no-deps",
            "--package",
            package,
            "--target",
            cargo::BARE,
            "--no-default-features",
        ]);
        clippy
            .args(["--features", &set.join(",")])
            .args(["--", "-D", "warnings"]);
        cargo::run(
            clippy,
            &format!("{package} with features [{}]", set.join(", ")),
        )?;
    }
    Ok(())
}

/// The sets of features that are tried.
fn sets(features: &[String]) -> Vec<Vec<String>> {
    let adapter = |feature: &&String| ADAPTERS.contains(&feature.as_str());
    let (adapters, others): (Vec<&String>, Vec<&String>) = features.iter().partition(adapter);
    let others: Vec<String> = others.into_iter().cloned().collect();
    let mut choices: Vec<Vec<String>> = vec![Vec::new()];
    choices.extend(adapters.iter().map(|&adapter| vec![adapter.clone()]));
    if adapters.len() > 1 {
        choices.push(adapters.into_iter().cloned().collect());
    }
    let with = |set: Vec<String>| {
        let joined = choices
            .iter()
            .map(move |choice| [set.clone(), choice.clone()].concat());
        joined.collect::<Vec<_>>()
    };
    powerset(&others).into_iter().flat_map(with).collect()
}

fn powerset(features: &[String]) -> Vec<Vec<String>> {
    features.iter().fold(vec![Vec::new()], |sets, feature| {
        let with = sets
            .iter()
            .map(|set| [set.as_slice(), std::slice::from_ref(feature)].concat())
            .collect::<Vec<_>>();
        [sets, with].concat()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_comes_once() {
        let sets = powerset(&["a".into(), "b".into(), "c".into()]);
        assert_eq!(sets.len(), 8);
        assert!(sets.contains(&vec![]) && sets.contains(&vec!["a".into(), "c".into()]));
    }

    #[test]
    fn adapters_come_alone_and_together() {
        let sets = sets(&["gpt_disk_io".into(), "smoltcp".into(), "xen".into()]);
        assert_eq!(sets.len(), 8);
        assert!(sets.contains(&vec!["xen".into(), "gpt_disk_io".into(), "smoltcp".into()]));
        assert!(sets.contains(&vec!["smoltcp".into()]));
    }

    #[test]
    fn the_workspace_has_these_libraries() {
        assert_eq!(libraries().unwrap().len(), LIBRARIES.len());
    }
}
