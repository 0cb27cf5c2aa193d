//! Criteria: which datums a consumer wants, in a form that travels to the producer and is evaluated there.
//!
//! What travels is a list of steps for a stack of truth values, not a tree: decoding and evaluating it never
//! recurse, whatever a peer sends.

mod evaluate;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// The most comparisons and connectives of one [`Criteria`].
pub const STEPS_MAX: usize = 64;
/// The longest [`Criteria`], encoded, in bytes.
pub const CRITERIA_LEN_MAX: usize = 2_048;
/// The most different criteria that the consumers of one producer may have.
pub const CRITERIA_MAX: usize = 64;

/// Which datums a consumer wants, by what is in them. The producer evaluates it, and does not send the others.
///
/// A criterion compares a field with a value. The field is named as serde names it, with dots on the way into
/// nested ones: `"order.price"`. On the way, newtypes and `Some` are looked through, parts of tuples are numbered
/// from zero, entries of maps are named by their keys, and what lies in a variant of an enum by the variant; an enum by
/// itself is the name of its variant. A list satisfies what any of its elements satisfies. The empty name is the datum
/// itself. What is not there, or is of another kind, satisfies no comparison.
///
/// ```
/// use smalti_core::streams::Criteria;
///
/// let large_or_urgent = Criteria::field("amount").above(1_000) | Criteria::field("tags").is("urgent");
/// let criteria = large_or_urgent & !Criteria::field("state").is("Cancelled");
///
/// #[derive(serde::Serialize)]
/// enum State { Open, Cancelled }
/// #[derive(serde::Serialize)]
/// struct Order { amount: u64, tags: Vec<&'static str>, state: State }
///
/// let urgent = vec!["new", "urgent"];
/// assert!(criteria.selects(&Order { amount: 7, tags: urgent.clone(), state: State::Open }));
/// assert!(!criteria.selects(&Order { amount: 7, tags: urgent, state: State::Cancelled }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<Step>", into = "Vec<Step>")]
pub struct Criteria {
    /// Leaves one truth value on the stack.
    steps: Vec<Step>,
}

/// Criteria that cannot be sent, or were not sent in good faith.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CriteriaError {
    /// There are more steps than allowed.
    #[error("criteria of {0} comparisons and connectives are longer than the {STEPS_MAX} allowed")]
    TooManySteps(usize),
    /// The names and values are too long.
    #[error("criteria of {0} bytes are longer than the {CRITERIA_LEN_MAX} allowed")]
    TooLong(usize),
    /// The steps do not leave one truth value.
    #[error("the steps of the criteria do not make one condition")]
    Malformed,
}

/// One step of the evaluation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Step {
    /// Pushes whether the field satisfies the comparison.
    Compare {
        path: Vec<Box<str>>,
        comparison: Comparison,
    },
    /// Takes two values, and pushes whether both are true.
    And,
    /// Takes two values, and pushes whether one is true.
    Or,
    /// Takes a value, and pushes the contrary.
    Not,
}

/// What is asked of a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Comparison {
    Is(Value),
    Below(Value),
    Above(Value),
    StartsWith(Value),
    IsThere,
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value(Kind);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Kind {
    Bool(bool),
    Integer(i128),
    /// The bits of a float, so that criteria have an order.
    Float(u64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
}

impl Criteria {
    /// Begins a comparison of the field with this name. The empty name is the datum itself.
    pub fn field(name: &str) -> Field {
        let path = name.split('.').filter(|part| !part.is_empty());
        Field(path.map(Box::from).collect())
    }

    /// Whether it can be sent.
    ///
    /// # Errors
    /// [`CriteriaError`] where it is too large.
    pub fn check(&self) -> Result<(), CriteriaError> {
        check(&self.steps)?;
        match crate::wire::encode(self) {
            Ok(encoded) if encoded.len() <= CRITERIA_LEN_MAX => Ok(()),
            Ok(encoded) => Err(CriteriaError::TooLong(encoded.len())),
            Err(_) => Err(CriteriaError::Malformed),
        }
    }

    /// Whether they choose `datum`. It is serialized for that, as far as fields are asked for.
    #[must_use]
    pub fn selects<T: Serialize + ?Sized>(&self, datum: &T) -> bool {
        self.evaluate(evaluate::satisfied(&self.steps, |probe| {
            probe.serialize(datum);
        }))
    }

    /// Whether they choose a datum that is these bytes, and has no fields.
    #[must_use]
    pub fn selects_bytes(&self, bytes: &[u8]) -> bool {
        self.evaluate(evaluate::satisfied(&self.steps, |probe| probe.bytes(bytes)))
    }

    /// Whether they choose a datum of which nothing is known.
    #[must_use]
    pub fn selects_unknown(&self) -> bool {
        self.evaluate(0)
    }

    /// The truth of the whole, where bit `n` says whether step `n` is a comparison that is satisfied.
    fn evaluate(&self, satisfied: u64) -> bool {
        // The stack: its top is the lowest bit. No step pushes more than one.
        let mut stack = 0u64;
        for (n, step) in self.steps.iter().enumerate().take(STEPS_MAX) {
            stack = match step {
                Step::Compare { .. } => stack << 1 | satisfied >> n & 1,
                Step::And => (stack >> 1) & (stack | !1),
                Step::Or => (stack >> 1) | (stack & 1),
                Step::Not => stack ^ 1,
            };
        }
        stack & 1 == 1
    }

    fn connect(mut self, other: Self, connective: Step) -> Self {
        self.steps.extend(other.steps);
        self.steps.push(connective);
        self
    }
}

impl std::ops::BitAnd for Criteria {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        self.connect(other, Step::And)
    }
}

impl std::ops::BitOr for Criteria {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.connect(other, Step::Or)
    }
}

impl std::ops::Not for Criteria {
    type Output = Self;

    fn not(mut self) -> Self {
        self.steps.push(Step::Not);
        self
    }
}

fn check(steps: &[Step]) -> Result<(), CriteriaError> {
    if steps.len() > STEPS_MAX {
        return Err(CriteriaError::TooManySteps(steps.len()));
    }
    let mut depth = 0usize;
    for step in steps {
        let (takes, gives) = match step {
            Step::Compare { .. } => (0, 1),
            Step::And | Step::Or => (2, 1),
            Step::Not => (1, 1),
        };
        depth = depth
            .checked_sub(takes)
            .map(|left| left + gives)
            .ok_or(CriteriaError::Malformed)?;
    }
    if depth == 1 {
        Ok(())
    } else {
        Err(CriteriaError::Malformed)
    }
}

impl TryFrom<Vec<Step>> for Criteria {
    type Error = CriteriaError;

    fn try_from(steps: Vec<Step>) -> Result<Self, CriteriaError> {
        check(&steps)?;
        Ok(Self { steps })
    }
}

impl From<Criteria> for Vec<Step> {
    fn from(criteria: Criteria) -> Self {
        criteria.steps
    }
}

/// A field that is to be compared. See [`Criteria::field`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Field(Vec<Box<str>>);

impl Field {
    /// It equals `value`. For an enum: the name of its variant.
    pub fn is(self, value: impl Into<Value>) -> Criteria {
        self.compare(Comparison::Is(value.into()))
    }

    /// It is less than `value`: a number, or a text that comes before it byte by byte.
    pub fn below(self, value: impl Into<Value>) -> Criteria {
        self.compare(Comparison::Below(value.into()))
    }

    /// It is greater than `value`.
    pub fn above(self, value: impl Into<Value>) -> Criteria {
        self.compare(Comparison::Above(value.into()))
    }

    /// It is a text or bytes that begin with `prefix`.
    pub fn starts_with(self, prefix: impl Into<Value>) -> Criteria {
        self.compare(Comparison::StartsWith(prefix.into()))
    }

    /// It is there, with whatever value: an option is `Some`, a list not empty, an enum has the variant that the name
    /// ends with.
    pub fn is_there(self) -> Criteria {
        self.compare(Comparison::IsThere)
    }

    fn compare(self, comparison: Comparison) -> Criteria {
        let steps = vec![Step::Compare {
            path: self.0,
            comparison,
        }];
        Criteria { steps }
    }
}

macro_rules! values_from_integers {
    ($($integer:ty)*) => {
        $(impl From<$integer> for Value {
            fn from(value: $integer) -> Self {
                Self(Kind::Integer(value.into()))
            }
        })*
    };
}

values_from_integers!(u8 u16 u32 u64 i8 i16 i32 i64 i128);

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self(Kind::Float(value.to_bits()))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self(Kind::Bool(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self(Kind::Text(value.into()))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self(Kind::Text(value.into()))
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self(Kind::Bytes(value.into()))
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self(Kind::Bytes(value.into()))
    }
}
