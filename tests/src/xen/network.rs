//! The machine's network interfaces: attached, detached, changed, while the guest runs.

use super::machine::XenHost;
use super::site::Site;
use super::vif::{Vif, VifSpec};
use super::xenstored::Xenstored;
use crate::memory::GuestMemory;

impl<M: GuestMemory> XenHost<M> {
    /// Attaches an interface, as the tool stack does; its number. One of that number must not be
    /// there.
    pub fn attach_nic(&mut self, spec: VifSpec) -> u32 {
        let seed = self.rng.draw();
        let device = spec.device;
        assert!(self.vif(device).is_none(), "an interface of this number");
        let vif = Vif::create(&mut self.store, self.config.domid, spec, seed);
        self.vifs.push(vif);
        self.pump();
        device
    }

    /// Asks the guest to let an interface go, as `xl network-detach` does.
    pub fn detach_nic(&mut self, device: u32) {
        self.with_vif(device, |vif, store, _| vif.pair.detach(store));
    }

    /// Takes an interface away without asking.
    pub fn destroy_nic(&mut self, device: u32) {
        self.with_vif(device, |vif, store, site| vif.destroy(store, site));
        self.vifs.retain(|vif| vif.pair.device != device);
    }

    /// Closes an interface's back end and leaves the device: the front end may reconnect.
    pub fn close_net_back_end(&mut self, device: u32) {
        self.with_vif(device, |vif, store, site| vif.close(store, site));
    }

    /// Has a back end send frames without answering, or answer again.
    pub fn stall_nic(&mut self, device: u32, stall: bool) {
        self.with_vif(device, |vif, _, _| vif.net.stalled = stall);
    }

    /// Changes the largest packet of an interface, in bytes.
    pub fn set_mtu(&mut self, device: u32, mtu: u16) {
        self.with_vif(device, |vif, store, _| vif.set_mtu(store, mtu));
    }

    /// Takes an interface's line down, or up again.
    pub fn set_link(&mut self, device: u32, up: bool) {
        self.with_vif(device, |vif, store, _| vif.set_link(store, up));
    }

    /// An interface's two ends, for tests that want to look; `None` if it is gone.
    pub fn vif(&self, device: u32) -> Option<&Vif> {
        self.vifs.iter().find(|vif| vif.pair.device == device)
    }

    fn with_vif(
        &mut self,
        device: u32,
        act: impl FnOnce(&mut Vif, &mut Xenstored, &mut Site<'_, M>),
    ) {
        let mut site = Site {
            mem: &self.mem,
            events: &mut self.events,
            grants: &mut self.grants,
            ledger: &mut self.ledger,
            hostile: &mut self.hostile,
            rng: &mut self.rng,
        };
        if let Some(vif) = self.vifs.iter_mut().find(|vif| vif.pair.device == device) {
            act(vif, &mut self.store, &mut site);
        }
        self.pump();
    }
}
