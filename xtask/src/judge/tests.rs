use super::*;
use crate::qemu::Line;
use std::time::Duration;

fn outcome(text: &[&str], status: Option<i32>) -> Outcome {
    let lines = text
        .iter()
        .map(|t| Line {
            at: Duration::ZERO,
            text: (*t).to_owned(),
        })
        .collect();
    Outcome {
        lines,
        status,
        took: Duration::from_secs(1),
    }
}

fn state(expect: Expect, text: &[&str]) -> State {
    let disk = Disk {
        vhd: "x".into(),
        sectors: 8,
        sha256: "d".into(),
        files: Vec::new(),
    };
    let mut trial = Trial::of_disk(Host::Xen, "t", "job=tour", Duration::from_secs(1));
    trial.expect = expect;
    judge(&trial, &outcome(text, Some(0)), &disk, Path::new("log")).state
}

fn fails(expect: Expect, text: &[&str], why: &str) {
    match state(expect, text) {
        State::Failed(reasons) => {
            assert!(reasons.iter().any(|r| r.contains(why)), "{reasons:?}")
        }
        other => panic!("{other:?}"),
    }
}

const GOOD: &str = r#"RESULT {"bus":"xenbus","job":"tour","ok":true,"disks":[{"sectors":8,"sector_size":512,"sha256":"d"}]}"#;
const SERVED: Expect = Expect::Served { queues: 1 };
const NO_DISK: &str = r#"RESULT {"bus":"vmbus 4.0","ok":false,"error":"no disk"}"#;

#[test]
fn only_the_machine_below_gets_a_second_chance() {
    let trial = Trial::of_disk(Host::Xen, "t", "job=tour", Duration::from_secs(1));
    for status in [None, Some(124), Some(0)] {
        assert!(unfinished(&trial, &outcome(&["hello"], status)).is_some());
    }
    assert!(unfinished(&trial, &outcome(&["RESULT {\"ok\":false}"], None)).is_none());
    assert!(unfinished(&trial, &outcome(&["panic: at x"], Some(0))).is_none());
}

#[test]
fn the_disk_must_be_right_and_be_left_so() {
    assert_eq!(
        state(Expect::SameDisk, &[GOOD, "HARNESS disk same"]),
        State::Passed
    );
    fails(
        Expect::SameDisk,
        &[GOOD, "HARNESS disk changed"],
        "left changed",
    );
    assert_eq!(
        state(Expect::DiskUsed, &[GOOD, "HARNESS disk changed"]),
        State::Passed
    );
    fails(Expect::SameDisk, &[NO_DISK], "no disk");
    fails(Expect::DiskUsed, &[NO_DISK], "no disk");
    fails(Expect::SameDisk, &["hello"], "without a line");
    fails(Expect::SameDisk, &["kernel panic"], "crashed");
}

#[test]
fn a_server_must_have_all_buffers_back() {
    let line = |ok: bool, after: u64| {
        format!(
            "RESULT {{\"ok\":{ok},\"error\":\"why\",\"traffic\":{{\"buffers_before\":3,\"buffers_after\":{after}}}}}"
        )
    };
    assert_eq!(state(SERVED, &[&line(true, 3)]), State::Passed);
    fails(SERVED, &[&line(true, 4)], "4 at the end");
    fails(SERVED, &[&line(false, 3)], "why");
    fails(SERVED, &["RESULT {\"ok\":true}"], "tells of no traffic");
    fails(Expect::Fetched, &[&line(true, 3)], "not what was asked");
}

#[test]
fn several_queues_must_be_of_use() {
    let line = |queues: &[[u64; 2]]| {
        let each = queues
            .iter()
            .map(|[rx, tx]| format!("{{\"rx_frames\":{rx},\"tx_frames\":{tx}}}"));
        let each: Vec<_> = each.collect();
        format!(
            "RESULT {{\"ok\":true,\"traffic\":{{\"queues\":[{}]}}}}",
            each.join(",")
        )
    };
    let two = Expect::Served { queues: 2 };
    assert_eq!(state(two, &[&line(&[[5, 1], [2, 3]])]), State::Passed);
    assert_eq!(state(SERVED, &[&line(&[[5, 1]])]), State::Passed);
    fails(two, &[&line(&[[5, 1]])], "2 queue pairs");
    fails(two, &[&line(&[[5, 1], [2, 0]])], "2 queue pairs");
    fails(two, &[&line(&[[5, 1], [0, 2], [1, 1]])], "2 queue pairs");
}

#[test]
fn where_there_is_no_disk_the_bus_decides() {
    assert_eq!(state(Expect::Bus, &[NO_DISK]), State::Passed);
    fails(
        Expect::Bus,
        &[r#"RESULT {"bus":"","ok":false,"error":"deaf"}"#],
        "deaf",
    );
    fails(
        Expect::Bus,
        &[r#"RESULT {"bus":"vmbus 4.0","ok":false,"error":"fault"}"#],
        "fault",
    );
}

#[test]
fn a_refusal_must_be_one_and_for_the_right_reason() {
    assert_eq!(state(Expect::Refusal("disk"), &[NO_DISK]), State::Passed);
    fails(
        Expect::Refusal("usage"),
        &[NO_DISK],
        "something of \"usage\"",
    );
    fails(Expect::Refusal("disk"), &[GOOD], "all is well");
}

#[test]
fn linux_must_use_the_network_both_ways() {
    let disk = Disk {
        vhd: "x".into(),
        sectors: 8,
        sha256: "d".into(),
        files: vec![crate::disk::Content {
            path: "f".into(),
            size: 1,
            sha256: "e5".into(),
        }],
    };
    let lines = [
        "LINUX net eth0 address 10.0.2.15",
        "LINUX net ping 5 packets transmitted, 5 packets received, 0% packet loss",
        "LINUX net fetched sha256 e5",
    ];
    assert_eq!(
        linux_net(&outcome(&lines, Some(0)), &disk),
        Vec::<String>::new()
    );
    for left in 0..lines.len() {
        let mut some = lines.to_vec();
        some.remove(left);
        assert_eq!(linux_net(&outcome(&some, Some(0)), &disk).len(), 1);
    }
    let lost = ["LINUX net ping 5 packets transmitted, 4 packets received, 20% packet loss"];
    assert_eq!(linux_net(&outcome(&lost, Some(0)), &disk).len(), 3);
}

#[test]
fn the_kvm_host_must_have_seen_large_sends_and_no_violation() {
    let mut trial = Trial::of_disk(Host::HyperV, "t", "", Duration::from_secs(1));
    trial.expect = Expect::Linux;
    let wrong = |trial: &Trial, text: &str| kvm_host(trial, &outcome(&[text], Some(0)));
    let line = |segments: u64, longest: u64| {
        format!(
            "{{\"ending\":\"reset\",\"line\":{{\"segments\":{segments},\"longest\":{longest}}}}}"
        )
    };
    assert_eq!(wrong(&trial, &line(0, 0)), Vec::<String>::new());
    trial.visit = Some(crate::visit::Plan::FILES);
    assert_eq!(wrong(&trial, &line(3, 30_000)), Vec::<String>::new());
    assert_eq!(wrong(&trial, &line(0, 1514)).len(), 1);
    let bad = "{\"ending\":\"reset\",\"violations\":[\"ring\"]}";
    trial.visit = None;
    assert_eq!(wrong(&trial, bad), ["ring"]);
}

#[test]
fn linux_must_read_write_and_restore() {
    let lines = [
        "LINUX disk sda 8 sectors sha256 d",
        "LINUX disk sda write verified",
        "LINUX disk sda restored sha256 d",
        "LINUX done 9",
    ];
    assert_eq!(state(Expect::Linux, &lines), State::Passed);
    fails(Expect::Linux, &[lines[0], lines[2], lines[3]], "read back");
    fails(Expect::Linux, &[lines[0], lines[1], lines[3]], "restore");
    fails(Expect::Linux, &[lines[1], lines[2], lines[3]], "as it is");
    fails(Expect::Linux, &lines[..3], "without a line of LINUX done");
}
