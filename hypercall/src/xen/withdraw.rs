//! Pages of a pool, taken back from a domain for a while and granted again.

use super::Xen;
use crate::gate::Gate;
use crate::host::StillInUse;
use crate::platform::Platform;
use crate::shm::{Access, Buf, Pool, Withdrawn};
use core::sync::atomic::Ordering;

impl<P: Platform, G: Gate> Xen<P, G> {
    /// Ends the grants of a buffer's pages, so that its bytes can be borrowed instead of copied.
    /// The pool was granted with `access`. It takes one exchange of a table entry for each page,
    /// and no hypercall.
    ///
    /// # Errors
    /// [`StillInUse`], with the buffer as it was, while the domain holds on to a page of it, or
    /// when it is not of this pool.
    pub fn withdraw(
        &self,
        pool: &Pool<P>,
        buf: Buf,
        access: Access,
    ) -> Result<Withdrawn, (StillInUse, Buf)> {
        let pages = buf.pages() as u64;
        if !buf.is_from(pool)
            || !self
                .grants
                .withdraw(pool.lent(), buf.page_numbers(), access)
        {
            self.refused.fetch_add(pages, Ordering::Relaxed);
            return Err((StillInUse, buf));
        }
        self.reclaimed.fetch_add(pages, Ordering::Relaxed);
        Ok(Withdrawn::new(buf))
    }

    /// Grants those pages of a pool again, with the `access` it has, that were withdrawn and are
    /// not used any more; they are free then. Returns how many.
    pub fn lend_returned(&self, pool: &Pool<P>, access: Access) -> usize {
        let pages = pool.lend_returned(|page| self.grants.permit(pool.lent(), page, access));
        self.lent.fetch_add(pages as u64, Ordering::Relaxed);
        pages
    }
}
