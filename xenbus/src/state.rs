//! The state machine of a connection, as seen by a front end: values in, values out.

use core::fmt;
use core::str::FromStr;

/// `XenbusState` (`io/xenbus.h`): how far either end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing said yet.
    Unknown,
    /// Setting itself up.
    Initialising,
    /// Set up; waits for what the other end tells.
    InitWait,
    /// Has told; waits for the other end to connect.
    Initialised,
    /// In use.
    Connected,
    /// Going away, because of an error or an unplug.
    Closing,
    /// Gone: it holds no memory of the other end's any more.
    Closed,
    /// Changing while connected.
    Reconfiguring,
    /// Has changed.
    Reconfigured,
    /// A number the protocol does not have.
    Other(u32),
}

impl State {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Initialising => 1,
            Self::InitWait => 2,
            Self::Initialised => 3,
            Self::Connected => 4,
            Self::Closing => 5,
            Self::Closed => 6,
            Self::Reconfiguring => 7,
            Self::Reconfigured => 8,
            Self::Other(number) => number,
        }
    }

    /// The state of a number.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Unknown,
            1 => Self::Initialising,
            2 => Self::InitWait,
            3 => Self::Initialised,
            4 => Self::Connected,
            5 => Self::Closing,
            6 => Self::Closed,
            7 => Self::Reconfiguring,
            8 => Self::Reconfigured,
            other => Self::Other(other),
        }
    }
}

impl FromStr for State {
    type Err = core::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::from_number)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "state {number}"),
            named => fmt::Debug::fmt(named, f),
        }
    }
}

/// What a front end should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write this state.
    Write(State),
    /// Wait for the back end to move.
    Wait,
    /// It is done.
    Done,
}

/// On the way from whatever an earlier owner left to a fresh start: front end Initialising, back
/// end InitWait.
///
/// `own` is the front end's state as it stands in xenstore; `started` whether this front end
/// wrote it, rather than an earlier owner.
pub fn prepare(own: State, started: bool, back: State) -> Step {
    match (back, own) {
        (State::InitWait, State::Initialising) => Step::Done,
        (State::InitWait, _) => Step::Write(State::Initialising),
        // An earlier connection stands, or is half made. The back end must see it close.
        (
            State::Initialised | State::Connected | State::Reconfiguring | State::Reconfigured,
            State::Closed,
        ) if started => Step::Wait,
        (State::Initialised | State::Connected | State::Reconfiguring | State::Reconfigured, _) => {
            Step::Write(State::Closed)
        }
        (State::Closing, State::Closed) => Step::Wait,
        (State::Closing, _) => Step::Write(State::Closed),
        // It opens again when it sees the front end start. What an earlier owner wrote it may
        // have seen already.
        (State::Closed, State::Initialising) if started => Step::Wait,
        (State::Closed, _) => Step::Write(State::Initialising),
        (State::Unknown | State::Initialising | State::Other(_), _) => Step::Wait,
    }
}

/// On the way out: Closing, until the back end has noticed; then Closed, until it has let go.
/// A back end that is no longer there is `None`.
pub fn close(own: State, back: Option<State>) -> Step {
    match (own, back) {
        (State::Closed, None) => Step::Done,
        (_, None) => Step::Write(State::Closed),
        // One that opens again at once has let go too.
        (State::Closed, Some(State::Closed | State::InitWait | State::Unknown)) => Step::Done,
        (State::Closing, Some(State::Closing | State::Closed | State::Unknown)) => {
            Step::Write(State::Closed)
        }
        (State::Closed | State::Closing, _) => Step::Wait,
        _ => Step::Write(State::Closing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;
    use std::format;

    const ALL: [State; 10] = [
        Unknown,
        Initialising,
        InitWait,
        Initialised,
        Connected,
        Closing,
        Closed,
        Reconfiguring,
        Reconfigured,
        Other(77),
    ];

    /// A back end that behaves as Linux's and QEMU's do.
    fn react(back: State, front: State) -> State {
        match (front, back) {
            (_, Unknown | Other(_)) => back,
            (Closed, _) => Closed,
            (Initialising, Closed) | (_, Initialising) => InitWait,
            (Closing, Connected | Initialised | InitWait | Reconfiguring | Reconfigured) => Closing,
            _ => back,
        }
    }

    fn run(
        mut own: State,
        mut back: State,
        step: impl Fn(State, bool, State) -> Step,
    ) -> Option<(State, State)> {
        let mut started = false;
        for _ in 0..20 {
            match step(own, started, back) {
                Step::Done => return Some((own, back)),
                Step::Write(state) => {
                    own = state;
                    started = true;
                    back = react(back, own);
                }
                Step::Wait => back = react(back, own),
            }
        }
        None
    }

    #[test]
    fn a_fresh_start_from_every_leftover() {
        for own in ALL {
            for back in ALL {
                let end = run(own, back, prepare);
                if matches!(back, Unknown | Other(_)) {
                    assert_eq!(end, None, "{own} {back}");
                } else {
                    assert_eq!(end, Some((Initialising, InitWait)), "{own} {back}");
                }
            }
        }
    }

    #[test]
    fn closing_ends_from_everywhere() {
        for own in ALL {
            for back in ALL {
                let end = run(own, back, |own, _, back| close(own, Some(back)));
                if let Some((own, back)) = end {
                    assert_eq!(own, Closed);
                    assert!(matches!(back, Closed | InitWait | Unknown), "{back}");
                } else {
                    // Only a back end that speaks no protocol.
                    assert!(matches!(back, Unknown | Other(_)), "{own} {back}");
                }
            }
            assert_eq!(close(Connected, None), Step::Write(Closed));
            assert_eq!(close(Closed, None), Step::Done);
        }
    }

    #[test]
    fn numbers_and_text() {
        for state in ALL {
            assert_eq!(State::from_number(state.number()), state);
            assert_eq!(format!("{}", state.number()).parse(), Ok(state));
        }
        assert!("four".parse::<State>().is_err());
        assert_eq!(format!("{Connected} {}", Other(9)), "Connected state 9");
    }
}
