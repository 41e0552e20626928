//! The database of xenstore: nodes, permissions, generations, transactions. No protocol.

use std::collections::BTreeMap;

/// Errors as xenstore names them (`io/xs_wire.h`, `xsd_errors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    Inval,
    Acces,
    Exist,
    NoEnt,
    NoSys,
    Busy,
    Again,
    TooBig,
    Perm,
    NoSpc,
}

impl StoreError {
    /// The string sent for it.
    pub fn name(self) -> &'static str {
        match self {
            StoreError::Inval => "EINVAL",
            StoreError::Acces => "EACCES",
            StoreError::Exist => "EEXIST",
            StoreError::NoEnt => "ENOENT",
            StoreError::NoSys => "ENOSYS",
            StoreError::Busy => "EBUSY",
            StoreError::Again => "EAGAIN",
            StoreError::TooBig => "E2BIG",
            StoreError::Perm => "EPERM",
            StoreError::NoSpc => "ENOSPC",
        }
    }
}

/// One permission entry; the first of a node names its owner and everybody else's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perm {
    pub domid: u16,
    pub read: bool,
    pub write: bool,
}

impl Perm {
    /// Parses `r5`, `w0`, `b7`, `n0`.
    pub fn parse(text: &str) -> Option<Perm> {
        let (read, write) = match text.chars().next()? {
            'r' => (true, false),
            'w' => (false, true),
            'b' => (true, true),
            'n' => (false, false),
            _ => return None,
        };
        let domid = text[1..].parse().ok()?;
        Some(Perm { domid, read, write })
    }
}

impl std::fmt::Display for Perm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = match (self.read, self.write) {
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
            (false, false) => 'n',
        };
        write!(f, "{letter}{}", self.domid)
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub value: Vec<u8>,
    pub perms: Vec<Perm>,
    /// Last parts of the children's paths, in the order they were made.
    pub children: Vec<String>,
    /// Changes with every change to the node.
    pub generation: u64,
}

impl Node {
    /// Whether `domid` may read and may write. The control domain and the owner may.
    pub fn allows(&self, domid: u16) -> (bool, bool) {
        let Some(first) = self.perms.first() else {
            return (domid == 0, domid == 0);
        };
        if domid == 0 || first.domid == domid {
            return (true, true);
        }
        let own = self.perms[1..].iter().find(|perm| perm.domid == domid);
        let perm = own.unwrap_or(first);
        (perm.read, perm.write)
    }

    /// The domain that owns the node.
    pub fn owner(&self) -> u16 {
        self.perms.first().map_or(0, |perm| perm.domid)
    }
}

/// A path that changed, and how far its watches reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub path: String,
    /// Only watches on exactly this path fire (a node removed along with a parent).
    pub exact: bool,
    /// Who could read it before it changed, where it is gone now.
    pub was: Option<Node>,
}

/// What a transaction has seen and done.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Path to what the transaction sees there.
    view: BTreeMap<String, Seen>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Seen {
    /// Generation in the database when first looked at; `None` if the node was not there.
    base: Option<u64>,
    node: Option<Node>,
    changed: bool,
}

/// The database.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
}

/// The path of a path's parent; the root is its own.
pub fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

fn leaf(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn child(path: &str, leaf: &str) -> String {
    match path {
        "/" => format!("/{leaf}"),
        _ => format!("{path}/{leaf}"),
    }
}

/// Whether `path` is `above` or lies below it.
pub fn is_below(path: &str, above: &str) -> bool {
    above == "/"
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node {
            value: Vec::new(),
            perms: vec![Perm {
                domid: 0,
                read: false,
                write: false,
            }],
            children: Vec::new(),
            generation: 0,
        };
        Tree {
            nodes: BTreeMap::from([("/".to_string(), root)]),
            generation: 1,
        }
    }
}

/// The database, or a transaction's view of it.
pub struct View<'a> {
    tree: &'a mut Tree,
    transaction: Option<&'a mut Transaction>,
    /// What a change outside a transaction touched.
    pub changes: Vec<Change>,
}

impl Tree {
    /// The database itself, or a transaction's view.
    pub fn view<'a>(&'a mut self, transaction: Option<&'a mut Transaction>) -> View<'a> {
        View {
            tree: self,
            transaction,
            changes: Vec::new(),
        }
    }

    /// A node as it is outside of any transaction.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Whether nothing a transaction looked at has changed since; then its changes are made, and
    /// what they touched is returned.
    pub fn commit(&mut self, transaction: Transaction) -> Result<Vec<Change>, StoreError> {
        let now = |path: &str| self.nodes.get(path).map(|node| node.generation);
        if transaction
            .view
            .iter()
            .any(|(path, seen)| now(path) != seen.base)
        {
            return Err(StoreError::Again);
        }
        for (path, seen) in transaction.view {
            if !seen.changed {
                continue;
            }
            self.generation += 1;
            match seen.node {
                Some(mut node) => {
                    node.generation = self.generation;
                    self.nodes.insert(path, node);
                }
                None => {
                    self.nodes.remove(&path);
                }
            }
        }
        Ok(transaction.changes)
    }
}

impl View<'_> {
    fn fetch(&mut self, path: &str) -> Option<Node> {
        let node = self.tree.nodes.get(path).cloned();
        let Some(transaction) = self.transaction.as_mut() else {
            return node;
        };
        let seen = transaction.view.entry(path.to_string()).or_insert(Seen {
            base: node.as_ref().map(|node| node.generation),
            node,
            changed: false,
        });
        seen.node.clone()
    }

    fn store(&mut self, path: &str, node: Option<Node>) {
        self.tree.generation += 1;
        let node = node.map(|mut node| {
            node.generation = self.tree.generation;
            node
        });
        match (self.transaction.as_mut(), node) {
            (Some(transaction), node) => {
                if let Some(seen) = transaction.view.get_mut(path) {
                    seen.node = node;
                    seen.changed = true;
                }
            }
            (None, Some(node)) => {
                self.tree.nodes.insert(path.to_string(), node);
            }
            (None, None) => {
                self.tree.nodes.remove(path);
            }
        }
    }

    fn changed(&mut self, change: Change) {
        match self.transaction.as_mut() {
            Some(transaction) => transaction.changes.push(change),
            None => self.changes.push(change),
        }
    }

    /// The node, if `who` has the right asked for; else what it may be told.
    pub fn node(&mut self, who: u16, path: &str, write: bool) -> Result<Node, StoreError> {
        let node = self.fetch(path);
        if let Some(node) = &node {
            let (may_read, may_write) = node.allows(who);
            if (write && may_write) || (!write && may_read) {
                return Ok(node.clone());
            }
        }
        // Whether a forbidden node exists is told only to those who could look above it.
        let mut above = parent(path).to_string();
        let nearest = loop {
            match self.fetch(&above) {
                Some(node) => break Some(node),
                None if above == "/" => break None,
                None => above = parent(&above).to_string(),
            }
        };
        let allowed = nearest.is_some_and(|node| {
            let (may_read, may_write) = node.allows(who);
            if write { may_write } else { may_read }
        });
        match (node, allowed) {
            (None, true) => Err(StoreError::NoEnt),
            _ => Err(StoreError::Acces),
        }
    }

    /// Sets a node's value, making it and its parents where missing.
    pub fn write(&mut self, who: u16, path: &str, value: &[u8]) -> Result<(), StoreError> {
        match self.node(who, path, true) {
            Ok(mut node) => {
                node.value = value.to_vec();
                self.store(path, Some(node));
            }
            Err(StoreError::NoEnt) => self.create(who, path, value),
            Err(error) => return Err(error),
        }
        self.changed(Change {
            path: path.to_string(),
            exact: false,
            was: None,
        });
        Ok(())
    }

    /// Makes a node where there is none.
    pub fn mkdir(&mut self, who: u16, path: &str) -> Result<(), StoreError> {
        match self.node(who, path, true) {
            Ok(_) => Ok(()),
            Err(StoreError::NoEnt) => self.write(who, path, b""),
            Err(error) => Err(error),
        }
    }

    fn create(&mut self, who: u16, path: &str, value: &[u8]) {
        let above = parent(path).to_string();
        if self.fetch(&above).is_none() {
            self.create(who, &above, b"");
        }
        let Some(mut up) = self.fetch(&above) else {
            return;
        };
        let mut perms = up.perms.clone();
        if who != 0
            && let Some(first) = perms.first_mut()
        {
            // A domain owns what it makes.
            first.domid = who;
        }
        up.children.push(leaf(path).to_string());
        self.store(&above, Some(up));
        // Look first, so that a transaction knows the node was not there.
        self.fetch(path);
        self.store(
            path,
            Some(Node {
                value: value.to_vec(),
                perms,
                children: Vec::new(),
                generation: 0,
            }),
        );
    }

    /// Removes a node and everything below it.
    pub fn remove(&mut self, who: u16, path: &str) -> Result<(), StoreError> {
        match self.node(who, path, true) {
            Ok(_) if path == "/" => return Err(StoreError::Inval),
            Ok(_) => {}
            Err(StoreError::NoEnt) if self.fetch(parent(path)).is_some() => return Ok(()),
            Err(error) => return Err(error),
        }
        self.remove_below(path, true);
        let above = parent(path).to_string();
        if let Some(mut up) = self.fetch(&above) {
            up.children.retain(|name| name != leaf(path));
            self.store(&above, Some(up));
        }
        Ok(())
    }

    fn remove_below(&mut self, path: &str, top: bool) {
        let Some(node) = self.fetch(path) else {
            return;
        };
        for name in &node.children {
            self.remove_below(&child(path, name), false);
        }
        self.store(path, None);
        self.changed(Change {
            path: path.to_string(),
            exact: !top,
            was: Some(node),
        });
    }

    /// Replaces a node's permissions; only its owner may, and only the control domain may give it
    /// away.
    pub fn set_perms(&mut self, who: u16, path: &str, perms: Vec<Perm>) -> Result<(), StoreError> {
        let mut node = self.node(who, path, true)?;
        if who != 0 && node.owner() != who {
            return Err(StoreError::Acces);
        }
        if who != 0 && perms.first().map(|perm| perm.domid) != Some(who) {
            return Err(StoreError::Perm);
        }
        let was = node.clone();
        node.perms = perms;
        self.store(path, Some(node));
        self.changed(Change {
            path: path.to_string(),
            exact: false,
            was: Some(was),
        });
        Ok(())
    }
}
