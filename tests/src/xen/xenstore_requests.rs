//! What xenstored answers (`docs/misc/xenstore.txt`, "Defined Xenstore message types").

use super::abi::pages::StoreHeader;
use super::abi::store::*;
use super::xenstore_tree::{Perm, StoreError, Transaction};
use super::xenstored::{Watch, Xenstored, nul};

/// Limits of an unprivileged domain (xenstored's defaults).
const MAX_WATCHES: usize = 128;
const MAX_TRANSACTIONS: usize = 10;
const MAX_VALUE: usize = 2048;

impl Xenstored {
    /// The reply's payload, or the error to name in its place.
    pub(super) fn answer(
        &mut self,
        header: &StoreHeader,
        payload: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        match header.kind {
            CONTROL | INTRODUCE | RELEASE | IS_DOMAIN_INTRODUCED | RESUME | SET_TARGET => {
                return Err(StoreError::Acces);
            }
            WATCH => return self.watch(payload),
            UNWATCH => return self.unwatch(payload),
            RESET_WATCHES => {
                self.watches.clear();
                self.transactions.clear();
                return Ok(ok());
            }
            _ => {}
        }
        if header.tx_id != 0 && !self.transactions.contains_key(&header.tx_id) {
            return Err(StoreError::NoEnt);
        }
        match header.kind {
            TRANSACTION_START => self.start_transaction(header.tx_id),
            TRANSACTION_END => self.end_transaction(header.tx_id, payload),
            GET_DOMAIN_PATH => {
                let domid: u16 = one(payload)?.parse().map_err(|_| StoreError::Inval)?;
                Ok(nul(&format!("/local/domain/{domid}")))
            }
            READ | DIRECTORY | GET_PERMS | WRITE | MKDIR | RM | SET_PERMS | DIRECTORY_PART => {
                self.node_request(header, payload)
            }
            _ => Err(StoreError::NoSys),
        }
    }

    fn node_request(
        &mut self,
        header: &StoreHeader,
        payload: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let (first, rest) = split(payload)?;
        if !rest.is_empty() && matches!(header.kind, READ | DIRECTORY | GET_PERMS | MKDIR | RM) {
            return Err(StoreError::Inval);
        }
        let path = self.canonical(first, false)?;
        let who = self.guest;
        let mut view = self.tree.view(self.transactions.get_mut(&header.tx_id));
        let reply = match header.kind {
            READ => view.node(who, &path, false)?.value,
            DIRECTORY => names(&view.node(who, &path, false)?.children),
            DIRECTORY_PART => {
                let offset: usize = one(rest)?.parse().map_err(|_| StoreError::Inval)?;
                let node = view.node(who, &path, false)?;
                directory_part(node.generation, &names(&node.children), offset)
            }
            GET_PERMS => {
                let perms = view.node(who, &path, false)?.perms;
                perms
                    .iter()
                    .flat_map(|perm| nul(&perm.to_string()))
                    .collect()
            }
            WRITE if rest.len() > MAX_VALUE => return Err(StoreError::NoSpc),
            WRITE => view.write(who, &path, rest).map(|()| ok())?,
            MKDIR => view.mkdir(who, &path).map(|()| ok())?,
            RM => view.remove(who, &path).map(|()| ok())?,
            _ => {
                let perms = strings(rest)
                    .map(|text| Perm::parse(text).ok_or(StoreError::Inval))
                    .collect::<Result<Vec<_>, _>>()?;
                if perms.is_empty() {
                    return Err(StoreError::Inval);
                }
                view.set_perms(who, &path, perms).map(|()| ok())?
            }
        };
        let changes = view.changes;
        self.fire(&changes);
        Ok(reply)
    }

    fn start_transaction(&mut self, inside: u32) -> Result<Vec<u8>, StoreError> {
        if inside != 0 {
            return Err(StoreError::Busy);
        }
        if self.transactions.len() >= MAX_TRANSACTIONS {
            return Err(StoreError::NoSpc);
        }
        let id = self.next_transaction;
        self.next_transaction += 1;
        self.transactions.insert(id, Transaction::default());
        Ok(nul(&id.to_string()))
    }

    fn end_transaction(&mut self, id: u32, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let commit = match one(payload)? {
            "T" => true,
            "F" => false,
            _ => return Err(StoreError::Inval),
        };
        let transaction = self.transactions.remove(&id).ok_or(StoreError::NoEnt)?;
        if commit {
            if self.habits.refuse_commits > 0 {
                self.habits.refuse_commits -= 1;
                return Err(StoreError::Again);
            }
            let changes = self.tree.commit(transaction)?;
            self.fire(&changes);
        }
        Ok(ok())
    }

    fn watch(&mut self, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let parts: Vec<&str> = strings(payload).collect();
        let (path, token, depth) = match parts[..] {
            [path, token] => (path, token, None),
            [path, token, depth] if self.habits.features & FEATURE_WATCHDEPTH != 0 => (
                path,
                token,
                Some(depth.parse().map_err(|_| StoreError::Inval)?),
            ),
            _ => return Err(StoreError::Inval),
        };
        let prefix = match path.starts_with(['/', '@']) {
            true => 0,
            false => self.home().len() + 1,
        };
        let path = self.canonical(path, true)?;
        if self
            .watches
            .iter()
            .any(|old| old.path == path && old.token == token)
        {
            return Err(StoreError::Exist);
        }
        if self.watches.len() >= MAX_WATCHES {
            return Err(StoreError::NoSpc);
        }
        self.watches.push(Watch {
            path,
            token: token.to_string(),
            prefix,
            depth,
        });
        Ok(ok())
    }

    fn unwatch(&mut self, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let parts: Vec<&str> = strings(payload).collect();
        let [path, token] = parts[..] else {
            return Err(StoreError::Inval);
        };
        let path = self.canonical(path, true)?;
        let found = self
            .watches
            .iter()
            .position(|old| old.path == path && old.token == token);
        self.watches.remove(found.ok_or(StoreError::NoEnt)?);
        Ok(ok())
    }

    fn canonical(&self, path: &str, special: bool) -> Result<String, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-/_@".contains(c);
        let absolute = match path.starts_with(['/', '@']) {
            true => path.to_string(),
            false => format!("{}/{path}", self.home()),
        };
        let limit = match path.starts_with(['/', '@']) {
            true => ABS_PATH_MAX,
            false => ABS_PATH_MAX.min(REL_PATH_MAX + self.home().len() + 1),
        };
        if path.is_empty()
            || !path.chars().all(plain)
            || (path.starts_with('@') && !special)
            || (absolute.ends_with('/') && absolute != "/")
            || absolute.contains("//")
            || absolute.len() > limit
        {
            return Err(StoreError::Inval);
        }
        Ok(absolute)
    }
}

fn ok() -> Vec<u8> {
    nul("OK")
}

fn names(children: &[String]) -> Vec<u8> {
    children.iter().flat_map(|name| nul(name)).collect()
}

/// Splits at the first NUL, which must be there.
fn split(payload: &[u8]) -> Result<(&str, &[u8]), StoreError> {
    let at = payload
        .iter()
        .position(|&b| b == 0)
        .ok_or(StoreError::Inval)?;
    let text = std::str::from_utf8(&payload[..at]).map_err(|_| StoreError::Inval)?;
    Ok((text, &payload[at + 1..]))
}

/// The only string of a payload.
fn one(payload: &[u8]) -> Result<&str, StoreError> {
    match split(payload)? {
        (text, []) => Ok(text),
        _ => Err(StoreError::Inval),
    }
}

/// Every terminated string of a payload.
fn strings(payload: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (text, after) = split(rest).ok()?;
        rest = after;
        Some(text)
    })
}

/// As many whole names from `offset` on as fit, behind the generation; an empty name ends the list.
fn directory_part(generation: u64, names: &[u8], offset: usize) -> Vec<u8> {
    let mut reply = nul(&generation.to_string());
    let room = PAYLOAD_MAX - reply.len() - 1;
    let rest = names.get(offset..).unwrap_or_default();
    let mut taken = 0;
    for name in rest.split_inclusive(|&b| b == 0) {
        if taken + name.len() > room {
            break;
        }
        taken += name.len();
    }
    reply.extend(&rest[..taken]);
    if taken == rest.len() {
        reply.push(0);
    }
    reply
}
