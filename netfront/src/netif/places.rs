//! What is at each place of the ring to send by: a page, an id, and which frame it is a piece of.

use hypercall::shm::PoolPage;

/// Places there are, and ids: what a ring holds.
pub const PLACES: u32 = super::abi::RING_SIZE;
const COUNT: usize = PLACES as usize;

/// Which frame the request at a place belongs to, if it is not a frame by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u8);

impl Mark {
    /// It is a frame by itself.
    pub const NONE: Self = Self(0);
    /// It is an extra, which is answered without an id.
    pub const EXTRA: Self = Self(u8::MAX);
}

/// A frame of several pieces.
#[derive(Debug, Clone, Copy, Default)]
struct Long {
    /// Pieces in flight.
    left: u8,
    /// The host said of one that it was not sent.
    failed: bool,
}

/// By place on the ring, or by what the place's name says. Answers come in the order of their
/// requests, mostly, and then a place's id and page stay with it; of one that comes early, id, page
/// and mark change places with those that were expected.
pub struct Places {
    pages: [Option<PoolPage>; COUNT],
    ids: [u8; COUNT],
    /// Where each id is: the other way round.
    places: [u8; COUNT],
    marks: [Mark; COUNT],
    /// By mark.
    long: [Long; COUNT],
    /// The mark that was used last.
    last: u8,
    /// Places with a mark.
    marked: u32,
}

impl Places {
    /// Without pages.
    pub fn new() -> Self {
        let ids = core::array::from_fn(|place| place as u8);
        Self {
            pages: [const { None }; COUNT],
            ids,
            places: ids,
            marks: [Mark::NONE; COUNT],
            long: [Long::default(); COUNT],
            last: 0,
            marked: 0,
        }
    }

    /// Drops all pages, and forgets all frames.
    pub fn clear(&mut self) {
        self.pages.fill_with(|| None);
        self.marks = [Mark::NONE; COUNT];
        self.long = [Long::default(); COUNT];
        self.marked = 0;
    }

    /// Places with a mark.
    #[inline(always)]
    pub fn marked(&self) -> u32 {
        self.marked
    }

    /// The id that is to be used at a place.
    #[inline(always)]
    pub fn id(&self, place: u8) -> u8 {
        self.ids.get(usize::from(place)).copied().unwrap_or(0)
    }

    /// Where an id is.
    pub fn place_of(&self, id: u8) -> u8 {
        self.places.get(usize::from(id)).copied().unwrap_or(0)
    }

    /// The mark of a place.
    #[inline(always)]
    pub fn mark(&self, place: u8) -> Mark {
        let mark = self.marks.get(usize::from(place));
        mark.copied().unwrap_or(Mark::NONE)
    }

    /// Takes the page at a place.
    #[inline(always)]
    pub fn take(&mut self, place: u8) -> Option<PoolPage> {
        self.pages.get_mut(usize::from(place))?.take()
    }

    /// Puts a page at a place where there is none.
    #[inline(always)]
    pub fn put(&mut self, place: u8, page: PoolPage) {
        if let Some(at) = self.pages.get_mut(usize::from(place)) {
            // There is no old one, so nothing is to be dropped.
            core::mem::forget(at.replace(page));
        }
    }

    /// Pages at the places from `first` on that are so many.
    pub fn count(&self, first: u8, count: u32) -> usize {
        let at = |i: u32| self.pages.get(usize::from(first.wrapping_add(i as u8)));
        (0..count).filter_map(at).flatten().count()
    }

    /// A mark for a frame of so many pieces, of which the ring has place for.
    pub fn begin_long(&mut self, pieces: u8) -> Mark {
        let (failed, left) = (false, pieces);
        loop {
            // Fewer frames of several pieces are in flight than there are marks.
            self.last = self.last.wrapping_add(1);
            let mark = Mark(self.last);
            if mark != Mark::NONE
                && mark != Mark::EXTRA
                && let Some(long) = self.long.get_mut(usize::from(self.last))
                && long.left == 0
            {
                *long = Long { left, failed };
                return mark;
            }
        }
    }

    /// Marks a place that has no mark.
    #[inline(always)]
    pub fn set_mark(&mut self, place: u8, mark: Mark) {
        if let Some(at) = self.marks.get_mut(usize::from(place)) {
            *at = mark;
            self.marked = self.marked.wrapping_add(1);
        }
    }

    /// The request at a place was answered: takes its mark away. Whether that is the end of a frame
    /// that was not sent.
    #[inline(always)]
    pub fn finish(&mut self, place: u8, failed: bool) -> bool {
        let Some(at) = self.marks.get_mut(usize::from(place)) else {
            return false;
        };
        let mark = core::mem::replace(at, Mark::NONE);
        if mark == Mark::NONE {
            return failed;
        }
        self.marked = self.marked.wrapping_sub(1);
        match self.long.get_mut(usize::from(mark.0)) {
            Some(long) if mark != Mark::EXTRA => {
                long.failed |= failed;
                long.left = long.left.saturating_sub(1);
                long.left == 0 && long.failed
            }
            _ => false,
        }
    }

    /// Frames in flight among the `count` requests from `first` on, which are all that are in
    /// flight.
    pub fn frames(&self, first: u8, count: u32) -> usize {
        if self.marked == 0 {
            return count as usize;
        }
        let plain = (0..count).filter(|i| self.mark(first.wrapping_add(*i as u8)) == Mark::NONE);
        let long = self.long.iter().filter(|long| long.left != 0);
        plain.count().wrapping_add(long.count())
    }

    /// The first extra among the `count` requests from `first` on.
    pub fn find_extra(&self, first: u8, count: u32) -> Option<u8> {
        let mut places = (0..count).map(|i| first.wrapping_add(i as u8));
        places.find(|place| self.mark(*place) == Mark::EXTRA)
    }

    /// Has two places change their ids, pages and marks.
    #[cold]
    pub fn exchange(&mut self, one: u8, other: u8) {
        let (a, b) = (usize::from(one), usize::from(other));
        // There are as many places as an index of theirs can name.
        self.pages.swap(a, b);
        self.ids.swap(a, b);
        self.marks.swap(a, b);
        for place in [one, other] {
            let id = self.id(place);
            if let Some(at) = self.places.get_mut(usize::from(id)) {
                *at = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_wherever_it_went() {
        let mut places = Places::new();
        for (one, other) in [(0, 255), (255, 7), (7, 7), (128, 0)] {
            places.exchange(one, other);
            for id in 0..=255 {
                assert_eq!(places.id(places.place_of(id)), id);
            }
        }
        assert_eq!([places.id(0), places.id(255), places.id(7)], [128, 7, 0]);
    }

    #[test]
    fn a_long_frame_fails_once_when_its_last_piece_is_answered() {
        let mut places = Places::new();
        let (one, two) = (places.begin_long(3), places.begin_long(2));
        assert_ne!(one, two);
        for (place, mark) in [
            (0, one),
            (1, Mark::EXTRA),
            (2, one),
            (3, one),
            (5, two),
            (6, two),
        ] {
            places.set_mark(place, mark);
        }
        assert_eq!((places.marked(), places.frames(0, 8)), (6, 4));
        assert_eq!(
            [places.find_extra(0, 2), places.find_extra(0, 1)],
            [Some(1), None]
        );
        assert!(!places.finish(0, true) && !places.finish(5, false));
        assert!(!places.finish(1, false) && !places.finish(2, true));
        // Elsewhere it is the same piece still.
        places.exchange(3, 200);
        assert!(places.finish(200, false), "once");
        assert!(!places.finish(6, false));
        assert!(
            places.finish(4, true) && !places.finish(7, false),
            "by themselves"
        );
        assert_eq!((places.marked(), places.frames(4, 0)), (0, 0));
    }

    #[test]
    fn marks_are_used_again() {
        let mut places = Places::new();
        for _ in 0..1000 {
            let mark = places.begin_long(1);
            assert!(mark != Mark::NONE && mark != Mark::EXTRA);
            places.set_mark(9, mark);
            places.finish(9, false);
        }
        // As many at once as a ring has places for.
        let marks: std::vec::Vec<_> = (0..128).map(|_| places.begin_long(2)).collect();
        for (i, mark) in marks.iter().enumerate() {
            assert!(!marks[..i].contains(mark));
        }
    }
}
