//! Where something is in xenstore.

/// A path, in up to two pieces that are joined by a slash: a directory that a device keeps, and a
/// key below it. Paths that do not start with a slash are relative to this domain's own
/// directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    directory: &'a str,
    leaf: &'a str,
}

impl<'a> From<&'a str> for Path<'a> {
    fn from(whole: &'a str) -> Self {
        Self {
            directory: "",
            leaf: whole,
        }
    }
}

impl<'a, const N: usize> From<&'a heapless::String<N>> for Path<'a> {
    fn from(whole: &'a heapless::String<N>) -> Self {
        Self::from(whole.as_str())
    }
}

impl<'a> From<(&'a str, &'a str)> for Path<'a> {
    fn from((directory, leaf): (&'a str, &'a str)) -> Self {
        Self { directory, leaf }
    }
}

impl<'a> Path<'a> {
    /// The pieces as they go over the wire; the final NUL is not among them.
    pub(crate) fn pieces(self) -> [&'a [u8]; 3] {
        let slash: &[u8] = if self.directory.is_empty() { b"" } else { b"/" };
        [self.directory.as_bytes(), slash, self.leaf.as_bytes()]
    }
}
