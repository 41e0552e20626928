//! News of an interface: whether its back end is there, the line, the MTU.

use super::features::{self, Offer};
use crate::capabilities::{Capabilities, Event};
use hypercall::{Gate, Platform};
use xenbus::{State, StoreError, Watched, Xenstore};

/// Events that nobody asked for yet, at most; each kind is only known by its last.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    moved: bool,
    link: Option<bool>,
    mtu: Option<u16>,
}

/// What watches tell of one interface. The first queue has the line and the MTU, every queue the
/// back end's state.
#[derive(Debug)]
pub struct News<'b, 'h, P: Platform, G: Gate> {
    state: Option<Watched<'b, 'h, P, G>>,
    carrier: Option<Watched<'b, 'h, P, G>>,
    mtu: Option<Watched<'b, 'h, P, G>>,
    offer: Offer,
    waiting: Waiting,
    gone: bool,
}

impl<'b, 'h, P: Platform, G: Gate> News<'b, 'h, P, G> {
    /// No news at all.
    pub fn none() -> Self {
        Self {
            state: None,
            carrier: None,
            mtu: None,
            offer: Offer::default(),
            waiting: Waiting::default(),
            gone: false,
        }
    }

    /// Of the back end in directory `backend`: whether it goes away.
    pub fn of_state(store: &'b Xenstore<'h, P, G>, backend: &str) -> Result<Self, StoreError> {
        Ok(Self {
            state: Some(Watched::new(store, backend, "state")?),
            ..Self::none()
        })
    }

    /// Adds the line, and the MTU as `directory` says it. Where there are too many watches already
    /// nothing is told of them.
    pub fn and_of_line(
        &mut self,
        store: &'b Xenstore<'h, P, G>,
        backend: &str,
        directory: &str,
        offer: Offer,
    ) {
        self.offer = offer;
        let watch = |directory, key| match Watched::new(store, directory, key) {
            Ok(watched) => Some(watched),
            Err(why) => {
                log::warn!("{directory}/{key} is not watched: {why}");
                None
            }
        };
        self.carrier = watch(backend, "carrier");
        self.mtu = watch(directory, "mtu");
    }

    /// The interface may be on another network.
    pub fn tell_moved(&mut self) {
        self.waiting.moved = true;
    }

    /// Whether the back end is gone or going.
    #[inline]
    pub fn is_gone(&mut self) -> bool {
        if let Some(watched) = &mut self.state
            && let Some(said) = watched.poll()
        {
            let state = said.and_then(|text| text.parse::<State>().ok());
            self.gone = matches!(state, None | Some(State::Closing | State::Closed));
        }
        self.gone
    }

    fn poll(&mut self, can: &mut Capabilities) {
        if let Some(watched) = &mut self.carrier
            && let Some(said) = watched.poll()
        {
            let link = features::link(said.as_deref());
            if link != can.link {
                can.link = link;
                self.waiting.link = Some(link);
            }
        }
        if let Some(watched) = &mut self.mtu
            && let Some(said) = watched.poll()
        {
            let mtu = self.offer.mtu(said.as_deref());
            if mtu != can.mtu {
                can.mtu = mtu;
                self.waiting.mtu = Some(mtu);
            }
        }
    }

    /// Whether there is an event, whose mark is on what the interface can do.
    pub fn has_events(&mut self, can: &mut Capabilities) -> bool {
        self.poll(can);
        let waiting = &self.waiting;
        waiting.moved || waiting.link.is_some() || waiting.mtu.is_some()
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        let waiting = &mut self.waiting;
        if core::mem::take(&mut waiting.moved) {
            return Some(Event::Moved);
        }
        let link = waiting.link.take().map(Event::Link);
        link.or_else(|| waiting.mtu.take().map(Event::Mtu))
    }
}
