//! HTTP by itself: requests out of bytes, ranges, and heads of answers (RFC 9110, RFC 9112).

use guest::net::http::{
    Asked, Head, MOST_HEAD, Method, Parsed, Part, Request, Status, content_type, parse, select,
    wants_no_body,
};
use proptest::prelude::*;

fn whole(bytes: &str) -> (Request, usize) {
    match parse(bytes.as_bytes()) {
        Parsed::Whole(request, length) => (request, length),
        other => panic!("{bytes:?}: {other:?}"),
    }
}

fn bad(bytes: &str) -> Status {
    match parse(bytes.as_bytes()) {
        Parsed::Bad(status) => status,
        other => panic!("{bytes:?}: {other:?}"),
    }
}

/// A request for `path` with these fields beside the host.
fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn a_request_says_what_it_says() {
    let text = get("/a/b.txt", "");
    let (request, length) = whole(&text);
    let plain = Request {
        method: Method::Get,
        path: "a/b.txt".into(),
        modern: true,
        keep: true,
        asked: Asked::All,
        body: false,
    };
    assert_eq!((request, length), (plain.clone(), text.len()));
    // Lines may end in a line feed alone; empty lines before are passed over.
    let (request, length) = whole("\r\n\nGET /a/b.txt HTTP/1.1\nHost: a\n\nrest");
    assert_eq!((request, length), (plain, 3 + 31));
    for (method, known) in [
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("DELETE", Method::Other),
    ] {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(whole(&text).0.method, known);
    }
    // These have targets that are no paths.
    for line in ["OPTIONS *", "CONNECT a:80"] {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(whole(&text).0.method, Method::Other);
    }
}

#[test]
fn paths_are_decoded_once() {
    for (target, path) in [
        ("/", ""),
        ("/a%20b", "a b"),
        ("/%41%2f%2F", "A//"),
        ("/100%2525", "100%25"),
        ("/%c3%a4", "\u{e4}"),
        ("/a?b=/c", "a"),
        ("/a%3fb", "a?b"),
        ("/../../etc", "../../etc"),
        ("/nul%00byte", "nul\0byte"),
        ("http://host/a/b", "a/b"),
        ("http://host", ""),
        ("HTTP://host/a", "a"),
        ("http://host?x=/a", ""),
        ("/a://b/c", "a://b/c"),
    ] {
        assert_eq!(whole(&get(target, "")).0.path, path, "{target}");
    }
    for target in [
        "/%", "/%4", "/%zz", "/%+1", "/%c3", "/%ff", "*", "a/b", "ftp://a/",
    ] {
        assert_eq!(bad(&get(target, "")), Status::BadRequest, "{target}");
    }
}

#[test]
fn connections_are_kept_as_version_and_fields_say() {
    for (version, fields, keep) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "connection: Keep-Alive , CLOSE\r\n", false),
        ("1.1", "Connection: upgrade\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        // What follows is not looked at, so nothing after it can be.
        ("1.1", "Content-Length: 5\r\n", false),
        ("1.1", "Content-Length: 0\r\n", true),
        ("1.1", "Transfer-Encoding: chunked\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        let (request, _) = whole(&text);
        assert_eq!(request.keep, keep, "{version} {fields}");
        let body = fields.contains("coding") || fields.contains(": 5");
        assert_eq!((request.body, request.modern), (body, version == "1.1"));
    }
    assert_eq!(
        whole("GET / HTTP/1.0\r\n\r\n").0.path,
        "",
        "no host in the old version"
    );
}

#[test]
fn what_is_no_request_has_a_status() {
    use Status::{BadRequest, FieldsTooLarge, NotImplemented, UriTooLong, VersionNotSupported};
    let long = "x".repeat(3000);
    let fields = |count| get("/", &"X: y\r\n".repeat(count));
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n".into(), BadRequest),
        (get("/", "Host: b\r\n"), BadRequest),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), BadRequest),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n".into(), NotImplemented),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n".into(), NotImplemented),
        ("GET /\r\n\r\n".into(), BadRequest),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), BadRequest),
        ("\u{1}\u{2}\u{3}\r\n\r\n".into(), BadRequest),
        (get("/", "No colon\r\n"), BadRequest),
        (get("/", "Space : before\r\n"), BadRequest),
        (get("/", " folded: line\r\n"), BadRequest),
        (get("/", "Content-Length: five\r\n"), BadRequest),
        (get("/", "Content-Length: -1\r\n"), BadRequest),
        (get("/", "Content-Length: +5\r\n"), BadRequest),
        (get("/", "Content-Length:\r\n"), BadRequest),
        (
            get("/", "Content-Length: 99999999999999999999\r\n"),
            BadRequest,
        ),
        (
            get("/", "Content-Length: 1\r\nContent-Length: 2\r\n"),
            BadRequest,
        ),
        (
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(),
            VersionNotSupported,
        ),
        (get(&format!("/{long}"), ""), UriTooLong),
        (format!("GET /{long}"), UriTooLong),
        (fields(64), FieldsTooLarge),
        (
            get("/", &format!("X: {}\r\n", "y".repeat(MOST_HEAD))),
            FieldsTooLarge,
        ),
        (
            format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(MOST_HEAD)),
            FieldsTooLarge,
        ),
        ("\r\n".repeat(100), BadRequest),
    ] {
        assert_eq!(bad(&text), status, "{}", &text[..text.len().min(80)]);
    }
    assert_eq!(whole(&fields(63)).0.path, "");
}

/// What is held at most is never waited with, whatever of it is empty lines.
#[test]
fn a_full_inbox_has_an_answer() {
    for (blank, field, target) in [
        (0, Status::FieldsTooLarge, Status::UriTooLong),
        (2, Status::FieldsTooLarge, Status::UriTooLong),
        (64, Status::FieldsTooLarge, Status::UriTooLong),
        (66, Status::BadRequest, Status::BadRequest),
    ] {
        let full = |begin: &str| {
            let mut text = "\r\n".repeat(blank / 2) + begin;
            text += &"x".repeat(MOST_HEAD - text.len());
            text
        };
        assert_eq!(bad(&full("GET / HTTP/1.1\r\nX: ")), field, "{blank}");
        assert_eq!(bad(&full("GET /")), target, "{blank}");
        let lines = "\r\n".repeat(blank / 2);
        let (alone, before) = (parse(lines.as_bytes()), lines.clone() + &get("/", ""));
        if blank <= 64 {
            assert_eq!(alone, Parsed::Part);
            assert_eq!(whole(&before).1, before.len());
        } else {
            assert_eq!(alone, Parsed::Bad(Status::BadRequest));
            assert_eq!(bad(&before), Status::BadRequest);
        }
    }
}

#[test]
fn who_asks_for_a_head_gets_no_body() {
    for (text, none) in [
        ("HEAD / HTTP/1.1\r\n\r\n", true),
        ("\r\n\nHEAD /%", true),
        ("GET / HTTP/1.1\r\n\r\n", false),
        ("HEADS / HTTP/1.1\r\n\r\n", false),
        ("HEAD", false),
        ("", false),
    ] {
        assert_eq!(wants_no_body(text.as_bytes()), none, "{text:?}");
    }
}

#[test]
fn one_range_is_understood_and_no_other() {
    let asked = |value: &str| whole(&get("/", &format!("Range: {value}\r\n"))).0.asked;
    for (value, range) in [
        ("bytes=0-0", Asked::From(0, Some(0))),
        ("bytes=5-", Asked::From(5, None)),
        ("bytes=-5", Asked::Last(5)),
        ("BYTES = 1 - 2", Asked::From(1, Some(2))),
        (
            "bytes=0-99999999999999999999",
            Asked::From(0, Some(u64::MAX)),
        ),
        ("bytes=99999999999999999999-", Asked::From(u64::MAX, None)),
    ] {
        assert_eq!(asked(value), range, "{value}");
    }
    for value in [
        "bytes=2-1",
        "bytes=-",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=1--2",
        "bytes=0-1,3-4",
        "bytes=1",
        "lines=1-2",
        "bytes 1-2",
        "",
    ] {
        assert_eq!(asked(value), Asked::All, "{value}");
    }
    // A part is only for who can know what it is a part of, and of a GET.
    let other = whole(&get("/", "Range: bytes=1-2\r\nIf-Range: \"x\"\r\n"));
    assert_eq!(other.0.asked, Asked::All);
    let twice = whole(&get("/", "Range: bytes=1-2\r\nRange: bytes=3-4\r\n"));
    assert_eq!(twice.0.asked, Asked::All);
    let head = whole("HEAD / HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\n\r\n");
    assert_eq!(head.0.asked, Asked::All);
}

#[test]
fn parts_are_inside_the_file() {
    for (asked, size, part) in [
        (Asked::All, 0, Part::All),
        (Asked::From(0, None), 0, Part::Nothing),
        (Asked::Last(5), 0, Part::All),
        (Asked::Last(0), 0, Part::Nothing),
        (Asked::From(0, Some(u64::MAX)), 10, Part::Bytes(0, 9)),
        (Asked::From(9, Some(9)), 10, Part::Bytes(9, 9)),
        (Asked::From(10, None), 10, Part::Nothing),
        (Asked::From(u64::MAX, None), u64::MAX, Part::Nothing),
        (Asked::Last(0), 10, Part::Nothing),
        (Asked::Last(3), 10, Part::Bytes(7, 9)),
        (Asked::Last(u64::MAX), 10, Part::Bytes(0, 9)),
    ] {
        assert_eq!(select(asked, size), part, "{asked:?} of {size}");
    }
}

#[test]
fn heads_say_what_follows() {
    let lines = |head: Head<'_>| {
        head.text()
            .split("\r\n")
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let has = |lines: &[String], line: &str| lines.iter().any(|known| known == line);
    let plain = lines(Head::plain(Status::NotFound, 12, "text/plain", true));
    assert_eq!(plain[0], "HTTP/1.1 404 Not Found");
    assert!(has(&plain, "Content-Length: 12") && has(&plain, "Content-Type: text/plain"));
    assert!(
        !plain
            .iter()
            .any(|line| line.starts_with("Connection") || line.starts_with("Accept"))
    );
    assert_eq!(plain[plain.len() - 2..], ["", ""]);
    let part = lines(Head {
        range: Some((Some((3, 7)), 100)),
        ranges: true,
        say_keep: true,
        ..Head::plain(Status::PartialContent, 5, "text/html", true)
    });
    assert!(has(&part, "Content-Range: bytes 3-7/100") && has(&part, "Accept-Ranges: bytes"));
    assert!(has(&part, "Connection: keep-alive"));
    let none = lines(Head {
        range: Some((None, 100)),
        ..Head::plain(Status::RangeNotSatisfiable, 0, "text/html", false)
    });
    assert!(has(&none, "Content-Range: bytes */100") && has(&none, "Connection: close"));
    let not = lines(Head::plain(Status::MethodNotAllowed, 0, "text/html", true));
    assert!(has(&not, "Allow: GET, HEAD"));
    assert_eq!(content_type("A/INDEX.HTM"), "text/html; charset=utf-8");
    assert_eq!(content_type("a.b/none"), "application/octet-stream");
}

/// Something like a request, or nothing of the kind.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("GET "),
        Just("HEAD "),
        Just("/"),
        Just("/a%20b "),
        Just(" HTTP/1.1"),
        Just("\r\n"),
        Just("\n"),
        Just("\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"),
        Just("Host: a"),
        Just("Range: bytes=1-2"),
        Just("Content-Length: 3"),
        Just("Connection: close"),
        Just("%"),
        Just(":"),
        Just("\0"),
        Just("\u{ff}"),
    ];
    prop_oneof![
        prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..300),
    ]
}

/// A place in a small file, or far beyond it.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![0..50u64, Just(u64::MAX - 1), any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, and however it is cut: what was decided stays decided, and the rest is left alone.
    #[test]
    fn more_bytes_change_no_answer(bytes in text(), more in text()) {
        let longer = [bytes.clone(), more].concat();
        match parse(&bytes) {
            Parsed::Whole(request, length) => {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(parse(&longer), Parsed::Whole(request, length));
            }
            Parsed::Bad(status) => prop_assert_eq!(parse(&longer), Parsed::Bad(status)),
            Parsed::Part => {}
        }
    }

    /// A request is the same in one piece and byte by byte, and so are those behind it.
    #[test]
    fn requests_follow_each_other(paths in prop::collection::vec("[a-z]{0,12}", 1..5), modern: bool) {
        let version = if modern { "1.1" } else { "1.0" };
        let mut sent = Vec::new();
        for path in &paths {
            sent.extend(format!("GET /{path} HTTP/{version}\r\nHost: a\r\n\r\n").into_bytes());
        }
        let (mut inbox, mut got) = (Vec::new(), Vec::new());
        let whole_inbox = sent.clone();
        for byte in sent {
            inbox.push(byte);
            match parse(&inbox) {
                Parsed::Part => {}
                Parsed::Whole(request, length) => {
                    prop_assert_eq!(length, inbox.len());
                    got.push(request.path);
                    inbox.clear();
                }
                Parsed::Bad(status) => prop_assert!(false, "{status:?}"),
            }
        }
        prop_assert_eq!(&got, &paths);
        let mut rest = whole_inbox.as_slice();
        for path in &paths {
            match parse(rest) {
                Parsed::Whole(request, length) => {
                    prop_assert_eq!(&request.path, path);
                    rest = &rest[length..];
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(rest.is_empty());
    }

    /// A part lies inside the file, and is what was asked for.
    #[test]
    fn parts_are_what_is_asked_for(first in place(), more in prop::option::of(place()), size in 0..40u64, suffix: bool) {
        let last = more.map(|more| first.saturating_add(more));
        let asked = if suffix { Asked::Last(first) } else { Asked::From(first, last) };
        let wanted: Vec<u64> = (0..size)
            .filter(|&at| match asked {
                Asked::Last(count) => size - at <= count,
                _ => at >= first && last.is_none_or(|last| at <= last),
            })
            .collect();
        let got: Vec<u64> = match select(asked, size) {
            Part::All => (0..size).collect(),
            Part::Bytes(from, to) => (from..=to).collect(),
            Part::Nothing => Vec::new(),
        };
        prop_assert_eq!(got, wanted);
    }
}
