//! Values of metric labels, and of other small sets whose members have names.

/// A type whose values are a small set, each with a name.
pub trait Label: Copy + 'static {
    /// All values, in the order of their indices.
    const ALL: &'static [Self];
    /// Further names that are accepted when a value is parsed.
    const ALIASES: &'static [(&'static str, Self)];
    /// Index of this value in `ALL`.
    fn index(self) -> usize;
    /// The name of the value.
    fn name(self) -> &'static str;
    /// The value of this name.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.name() == name)
    }
}

/// Declares an enum whose values have names; a plain enum would repeat each value three times.
macro_rules! label {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $text:literal $(| $alias:literal)*,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$inner])* $variant,)+ }

        impl $crate::base::label::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            const ALIASES: &'static [(&'static str, Self)] = &[$($(($alias, Self::$variant),)*)+];
            fn index(self) -> usize { self as usize }
            fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}
pub(crate) use label;
