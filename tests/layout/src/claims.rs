//! What the Rust side states, and in which C expression the headers say the same.

/// One number stated twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub from: &'static str,
    pub c: String,
    pub rust: i64,
    /// A macro that older headers lack.
    pub optional: bool,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    pub all: Vec<Claim>,
}

impl Claims {
    /// A constant or any other expression.
    pub fn number(&mut self, from: &'static str, c: &str, rust: i64) {
        self.all.push(Claim {
            from,
            c: c.to_string(),
            rust,
            optional: false,
        });
    }

    /// A macro that not every version of the headers has.
    pub fn newer(&mut self, from: &'static str, c: &str, rust: i64) {
        self.number(from, c, rust);
        if let Some(claim) = self.all.last_mut() {
            claim.optional = true;
        }
    }

    /// A struct's size in bytes.
    pub fn size(&mut self, from: &'static str, c: &str, bytes: usize) {
        self.number(from, &format!("sizeof({c})"), bytes as i64);
    }

    /// A field's offset and size in bytes.
    pub fn field(&mut self, from: &'static str, c: &str, field: &str, at: usize, bytes: usize) {
        self.number(from, &format!("offsetof({c}, {field})"), at as i64);
        self.number(from, &format!("sizeof((({c} *)0)->{field})"), bytes as i64);
    }
}

/// The size of what a projection yields.
pub fn size_behind<T, F>(_: impl Fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// `layout!(claims, "abi::x", Type as "struct c_type" { field, rust_field = "c_field" })`: the size,
/// and each field's offset and size. `prefix` before the type leaves the size out.
#[macro_export]
macro_rules! layout {
    ($claims:expr, $from:literal, prefix $type:ty as $c:literal { $($field:ident $(= $cfield:literal)?),* $(,)? }) => {
        $({
            #[allow(unused_mut, unused_assignments)]
            let mut name = stringify!($field);
            $(name = $cfield;)?
            $claims.field(
                $from,
                $c,
                name,
                core::mem::offset_of!($type, $field),
                $crate::claims::size_behind(|value: &$type| &value.$field),
            );
        })*
    };
    ($claims:expr, $from:literal, $type:ty as $c:literal { $($fields:tt)* }) => {
        $claims.size($from, $c, size_of::<$type>());
        $crate::layout!($claims, $from, prefix $type as $c { $($fields)* });
    };
}

/// `numbers!(claims, "abi::x", module { NAME = "C_NAME", ... })`.
#[macro_export]
macro_rules! numbers {
    ($claims:expr, $from:literal, $module:path { $($name:ident = $c:literal),* $(,)? }) => {
        {
            use $module as module;
            $($claims.number($from, $c, module::$name as i64);)*
        }
    };
}
