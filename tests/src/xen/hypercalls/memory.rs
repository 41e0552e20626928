//! `memory_op` and `grant_table_op`: the guest's frames.

use super::{Failure, Outcome, errno, get, put};
use crate::memory::GuestMemory;
use crate::xen::abi::errno::*;
use crate::xen::abi::ops::*;
use crate::xen::abi::{PAGE, grant, memory};
use crate::xen::machine::XenHost;

impl<M: GuestMemory> XenHost<M> {
    pub(super) fn memory_op(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
        match command {
            memory::ADD_TO_PHYSMAP => {
                let op: AddToPhysmap = get(operand)?;
                self.is_me(op.domid)?;
                let Some(gpa) = op.gpfn.checked_mul(PAGE) else {
                    return errno(EINVAL);
                };
                let window = match (op.space, op.idx) {
                    (memory::SPACE_SHARED_INFO, 0) => Some(self.events.shared()),
                    (memory::SPACE_GRANT_TABLE, index @ 0..0x1_0000) => {
                        match self.grants.grow(index as u32 + 1) {
                            true => self.grants.frame(index as u32),
                            false => None,
                        }
                    }
                    _ => None,
                };
                match window {
                    Some(window) => window.map(&self.mem, gpa)?,
                    None => return errno(EINVAL),
                }
                if op.space == memory::SPACE_SHARED_INFO {
                    self.publish_time()?;
                }
                Ok(0)
            }
            memory::REMOVE_FROM_PHYSMAP => {
                let op: RemoveFromPhysmap = get(operand)?;
                self.is_me(op.domid)?;
                let gpa = op.gpfn.wrapping_mul(PAGE);
                let frames = self.grants.frames();
                if self.events.shared().mapped_at() == Some(gpa) {
                    self.events.shared().unmap(&self.mem)?;
                    return Ok(0);
                }
                for n in 0..frames {
                    if let Some(frame) = self.grants.frame(n)
                        && frame.mapped_at() == Some(gpa)
                    {
                        frame.unmap(&self.mem)?;
                        return Ok(0);
                    }
                }
                errno(ENOENT)
            }
            memory::MEMORY_MAP => {
                let mut op: MemoryMap = get(operand)?;
                if self.config.memory_map.is_empty() {
                    return errno(ENOSYS);
                }
                let room = op.nr_entries as usize;
                let entries = self.config.memory_map.iter().take(room);
                let bytes: Vec<u8> = entries.flat_map(|entry| entry.to_bytes()).collect();
                self.mem.write(op.buffer, &bytes)?;
                op.nr_entries = (bytes.len() / E820Entry::SIZE) as u32;
                put(operand, &op)
            }
            _ => errno(ENOSYS),
        }
    }

    pub(super) fn grant_op(&mut self, command: u64, count: u64, operand: &mut [u8]) -> Outcome {
        let size = match command {
            grant::SETUP_TABLE => size_of::<SetupTable>(),
            grant::QUERY_SIZE => size_of::<QuerySize>(),
            grant::SET_VERSION => size_of::<SetVersion>(),
            grant::GET_VERSION => size_of::<GetVersion>(),
            _ => return errno(ENOSYS),
        };
        if matches!(
            command,
            grant::SETUP_TABLE | grant::QUERY_SIZE | grant::SET_VERSION
        ) && count != 1
        {
            return errno(EINVAL);
        }
        if (operand.len() / size) < count as usize {
            return Err(Failure::Short(operand.len()));
        }
        for one in operand.chunks_exact_mut(size).take(count as usize) {
            self.grant_one(command, one)?;
        }
        Ok(0)
    }

    fn grant_one(&mut self, command: u64, operand: &mut [u8]) -> Outcome {
        match command {
            grant::SETUP_TABLE => {
                let mut op: SetupTable = get(operand)?;
                op.status = match (self.is_me(op.dom), self.grants.grow(op.nr_frames)) {
                    (Err(_), _) => grant::GNTST_BAD_DOMAIN,
                    (Ok(()), false) => grant::GNTST_GENERAL_ERROR,
                    (Ok(()), true) => grant::GNTST_OKAY,
                };
                if op.status == grant::GNTST_OKAY {
                    for n in 0..op.nr_frames {
                        let mapped = self.grants.frame(n).and_then(|frame| frame.mapped_at());
                        let gfn = mapped.map_or(u64::MAX, |gpa| gpa / PAGE);
                        let at = op.frame_list.wrapping_add(u64::from(n) * 8);
                        self.mem.write(at, &gfn.to_le_bytes())?;
                    }
                }
                put(operand, &op)
            }
            grant::QUERY_SIZE => {
                let mut op: QuerySize = get(operand)?;
                op.status = match self.is_me(op.dom) {
                    Ok(()) => grant::GNTST_OKAY,
                    Err(_) => grant::GNTST_BAD_DOMAIN,
                };
                op.nr_frames = self.grants.frames();
                op.max_nr_frames = self.grants.max_frames();
                put(operand, &op)
            }
            grant::SET_VERSION => {
                let mut op: SetVersion = get(operand)?;
                if !(1..=self.config.max_grant_version).contains(&op.version) {
                    return errno(if op.version == 2 { ENOSYS } else { EINVAL });
                }
                let done = self.grants.set_version(&self.mem, op.version)?;
                op.version = self.grants.version();
                put(operand, &op)?;
                if done { Ok(0) } else { errno(EBUSY) }
            }
            _ => {
                let mut op: GetVersion = get(operand)?;
                self.is_me(op.dom)?;
                op.version = self.grants.version();
                put(operand, &op)
            }
        }
    }
}
