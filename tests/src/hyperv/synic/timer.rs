//! One synthetic timer (TLFS 12.3). Times are reference time, in 100 ns.

const ENABLE: u64 = 1;
const PERIODIC: u64 = 1 << 1;
const AUTO_ENABLE: u64 = 1 << 3;
const DIRECT: u64 = 1 << 12;

#[derive(Debug, Default)]
pub(super) struct Timer {
    config: u64,
    count: u64,
    due: Option<u64>,
}

impl Timer {
    pub(super) fn config(&self) -> u64 {
        self.config
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    pub(super) fn sint(&self) -> u8 {
        (self.config >> 16) as u8 & 0xf
    }

    pub(super) fn direct_vector(&self) -> Option<u8> {
        (self.config & DIRECT != 0).then_some((self.config >> 4) as u8)
    }

    pub(super) fn set_config(&mut self, config: u64, now: u64) {
        self.config = config;
        // In message mode SINT 0 is no valid target, so the timer stays off.
        if self.sint() == 0 && self.direct_vector().is_none() {
            self.config &= !ENABLE;
        }
        self.arm(now);
    }

    pub(super) fn set_count(&mut self, count: u64, now: u64) {
        self.count = count;
        if count == 0 {
            self.config &= !ENABLE;
        } else if self.config & AUTO_ENABLE != 0 {
            self.config |= ENABLE;
        }
        self.arm(now);
    }

    fn arm(&mut self, now: u64) {
        self.due = (self.config & ENABLE != 0 && self.count != 0).then_some(
            // A periodic count is an interval, a one-shot count a point in time.
            if self.config & PERIODIC != 0 {
                now.saturating_add(self.count)
            } else {
                self.count
            },
        );
    }

    /// When the timer is due: its expiration time, and it goes off or starts its next period.
    pub(super) fn fire(&mut self, now: u64) -> Option<u64> {
        let due = self.due.filter(|&due| due <= now)?;
        if self.config & PERIODIC != 0 {
            self.due = Some(due.saturating_add(self.count));
        } else {
            self.config &= !ENABLE;
            self.due = None;
        }
        Some(due)
    }
}
