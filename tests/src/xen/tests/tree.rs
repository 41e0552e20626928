//! The database of xenstore, without the protocol.

use crate::xen::xenstore_tree::*;

fn tree() -> Tree {
    let mut tree = Tree::default();
    let mut view = tree.view(None);
    view.write(0, "/local/domain/5/name", b"guest").unwrap();
    let perms = vec![Perm::parse("n5").unwrap()];
    view.set_perms(0, "/local/domain/5", perms).unwrap();
    tree
}

#[test]
fn a_domain_writes_at_home_and_nowhere_else() {
    let mut tree = tree();
    let mut view = tree.view(None);
    view.write(5, "/local/domain/5/a/b", b"1").unwrap();
    assert_eq!(view.node(5, "/local/domain/5/a", false).unwrap().owner(), 5);
    assert_eq!(
        view.node(5, "/local/domain/5/a/b", false).unwrap().value,
        b"1"
    );
    let error = |result: Result<(), StoreError>| result.unwrap_err();
    assert_eq!(
        error(view.write(5, "/local/domain/6/x", b"")),
        StoreError::Acces
    );
    assert_eq!(error(view.remove(5, "/local/domain/6")), StoreError::Acces);
    assert_eq!(
        error(view.remove(5, "/local/domain/5/q/r")),
        StoreError::NoEnt
    );
    assert_eq!(view.remove(5, "/local/domain/5/gone"), Ok(()));
    assert_eq!(
        view.node(5, "/local/domain/5/none", false).unwrap_err(),
        StoreError::NoEnt
    );
    assert_eq!(view.node(5, "/tool", false).unwrap_err(), StoreError::Acces);
}

#[test]
fn a_transaction_sees_its_own_world_until_it_conflicts() {
    let mut tree = tree();
    let mut transaction = Transaction::default();
    let mut view = tree.view(Some(&mut transaction));
    view.write(5, "/local/domain/5/x", b"1").unwrap();
    assert_eq!(
        view.node(5, "/local/domain/5/x", false).unwrap().value,
        b"1"
    );
    assert!(view.changes.is_empty());
    assert!(tree.get("/local/domain/5/x").is_none());
    let mut rival = transaction.clone();
    let changes = tree.commit(transaction).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(tree.get("/local/domain/5/x").unwrap().value, b"1");
    tree.view(Some(&mut rival))
        .write(5, "/local/domain/5/x", b"2")
        .unwrap();
    assert_eq!(tree.commit(rival), Err(StoreError::Again));
    assert_eq!(tree.get("/local/domain/5/x").unwrap().value, b"1");
}

#[test]
fn a_change_elsewhere_is_no_conflict() {
    let mut tree = tree();
    let mut transaction = Transaction::default();
    tree.view(Some(&mut transaction))
        .write(0, "/local/domain/5/name", b"new")
        .unwrap();
    tree.view(None).write(0, "/tool/xenstored", b"").unwrap();
    assert!(tree.commit(transaction).is_ok());
}

#[test]
fn removal_reports_every_node_once() {
    let mut tree = tree();
    let mut view = tree.view(None);
    view.write(5, "/local/domain/5/a/b/c", b"1").unwrap();
    view.changes.clear();
    view.remove(5, "/local/domain/5/a").unwrap();
    let seen: Vec<_> = view
        .changes
        .iter()
        .map(|c| (c.path.as_str(), c.exact))
        .collect();
    assert_eq!(
        seen,
        [
            ("/local/domain/5/a/b/c", true),
            ("/local/domain/5/a/b", true),
            ("/local/domain/5/a", false)
        ]
    );
    assert!(
        view.node(5, "/local/domain/5", false)
            .unwrap()
            .children
            .len()
            == 1
    );
}
