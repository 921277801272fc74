//! The entries of COCO's JSON: objects of which a few fields are wanted, read one at a time.
//!
//! What an entry takes in memory is bounded by its caller: of a list of numbers no more are kept than were asked for, and
//! fields that are not wanted are passed over. Values of a wrong kind are kept as such, since an error about them names the
//! entry's id, which may come after them.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, or NaN and infinities, which [`PythonJson`](crate::output::PythonJson) gives as such.
    Null,
    Bool(bool),
    Whole(u64),
    Number(f64),
    Text(String),
    List(Numbers),
    Object,
}

/// A list that should hold numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// The first ones, as many as were asked for.
    pub kept: Vec<f64>,
    /// How many the list has.
    pub len: usize,
    /// The first that is no number: its place, and what it is.
    pub wrong: Option<(usize, &'static str)>,
}

impl Value {
    /// In words, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null, NaN or an infinity",
            Value::Bool(_) => "true or false",
            Value::Whole(_) | Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object => "an object",
        }
    }
}

/// The wanted fields of an entry, in the order they were asked for.
pub struct Entry<const N: usize> {
    names: [&'static str; N],
    values: [Option<Value>; N],
}

/// What is wrong with an entry: the field, what it should hold, and what it does.
pub type Wrong = String;

impl<const N: usize> Entry<N> {
    fn named(&self, field: &str) -> usize {
        self.names.iter().position(|name| *name == field).expect("a field that was asked for")
    }

    /// A field; `None` if the entry lacks it.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.values[self.named(field)].as_ref()
    }

    /// A field that the entry must have.
    fn need(&self, field: &str, expected: &str) -> Result<&Value, Wrong> {
        self.get(field).ok_or_else(|| format!("has no '{field}', expected {expected}"))
    }

    /// A whole number from 0 on, also written as 5.0.
    pub fn id(&self, field: &str) -> Result<u64, Wrong> {
        let expected = "a whole number from 0 on";
        match self.need(field, expected)? {
            Value::Whole(id) => Ok(*id),
            Value::Number(id) => match whole(*id) {
                Some(id) => Ok(id),
                None => Err(format!("'{field}' is {id}, expected {expected}")),
            },
            other => Err(format!("'{field}' is {}, expected {expected}", other.kind())),
        }
    }

    /// A number of the range of f32.
    pub fn number(&self, field: &str) -> Result<f64, Wrong> {
        let expected = "a number";
        let number = match self.need(field, expected)? {
            Value::Whole(n) => *n as f64,
            Value::Number(n) => *n,
            other => return Err(format!("'{field}' is {}, expected {expected}", other.kind())),
        };
        check_range(number).map_err(|what| format!("'{field}' is {number}, {what}"))?;
        Ok(number)
    }

    /// So many numbers of the range of f32; `meaning` completes "expected N numbers".
    pub fn numbers<'a>(&'a self, field: &str, len: usize, meaning: &str) -> Result<&'a [f64], Wrong> {
        let expected = format!("{len} numbers{meaning}");
        let list = match self.need(field, &expected)? {
            Value::List(list) => list,
            other => return Err(format!("'{field}' is {}, expected {expected}", other.kind())),
        };
        if list.len != len {
            return Err(format!("'{field}' has {} values, expected {expected}", list.len));
        }
        if let Some((place, kind)) = list.wrong {
            return Err(format!("'{field}'[{place}] is {kind}, expected a number"));
        }
        for (place, number) in list.kept.iter().enumerate() {
            check_range(*number).map_err(|what| format!("'{field}'[{place}] is {number}, {what}"))?;
        }
        Ok(&list.kept)
    }

    /// x, y, width and height, the latter two not negative.
    pub fn bbox(&self, field: &str) -> Result<[f64; 4], Wrong> {
        let numbers = self.numbers(field, 4, " (x, y, width, height)")?;
        let bbox = [numbers[0], numbers[1], numbers[2], numbers[3]];
        match bbox[2..].iter().find(|side| **side < 0.0) {
            Some(side) => Err(format!("'{field}' has a side of {side}, expected one from 0 on")),
            None => Ok(bbox),
        }
    }

    /// 0, 1, or a truth value; `false` if the entry lacks it.
    pub fn flag(&self, field: &str) -> Result<bool, Wrong> {
        match self.get(field) {
            None | Some(Value::Whole(0) | Value::Bool(false)) => Ok(false),
            Some(Value::Whole(1) | Value::Bool(true)) => Ok(true),
            Some(Value::Number(x)) if *x == 0.0 || *x == 1.0 => Ok(*x == 1.0),
            Some(Value::Whole(n)) => Err(format!("'{field}' is {n}, expected 0 or 1")),
            Some(Value::Number(n)) => Err(format!("'{field}' is {n}, expected 0 or 1")),
            Some(other) => Err(format!("'{field}' is {}, expected 0 or 1", other.kind())),
        }
    }

    /// The entry's id for messages about it: ` (id 7)`, or nothing if it has none that is sound.
    pub fn label(&self, field: &str) -> String {
        self.id(field).map_or(String::new(), |id| format!(" ({field} {id})"))
    }
}

/// A whole number from 0 on. Beyond 2^53 the numbers of f64 have gaps.
pub fn whole(number: f64) -> Option<u64> {
    (number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number)).then_some(number as u64)
}

/// Squares and products of such numbers, and quotients by an area, are finite in f64.
fn check_range(number: f64) -> Result<(), &'static str> {
    match number.abs() <= f64::from(f32::MAX) {
        true => Ok(()),
        false => Err("expected a number of the range of f32"),
    }
}

/// Reads an object's wanted fields; of lists as many numbers as `most`.
#[derive(Clone, Copy)]
pub struct Fields<const N: usize> {
    pub names: [&'static str; N],
    pub most: usize,
}

impl<'de, const N: usize> DeserializeSeed<'de> for Fields<N> {
    type Value = Entry<N>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Entry<N>, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = Entry<N>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry<N>, A::Error> {
        let mut entry = Entry { names: self.names, values: [const { None }; N] };
        while let Some(field) = map.next_key_seed(Name(&self.names))? {
            match field {
                None => _ = map.next_value::<IgnoredAny>()?,
                Some(field) if entry.values[field].is_some() => {
                    return Err(A::Error::custom(format!("an object has '{}' twice", self.names[field])));
                }
                Some(field) => entry.values[field] = Some(map.next_value_seed(Any(self.most))?),
            }
        }
        Ok(entry)
    }
}

/// Which of some names a key is.
pub struct Name<'a>(pub &'a [&'static str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<usize>, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|known| *known == name))
    }
}

/// Reads a value of any kind; of a list as many numbers as are said.
struct Any(usize);

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut numbers = Numbers::default();
        // What lists within the list hold does not matter: they are wrong.
        while let Some(value) = list.next_element_seed(Any(0))? {
            let number = match value {
                Value::Whole(n) => Ok(n as f64),
                Value::Number(n) => Ok(n),
                other => Err(other.kind()),
            };
            match number {
                Ok(number) if numbers.kept.len() < self.0 => numbers.kept.push(number),
                Ok(_) => {}
                Err(kind) => numbers.wrong = numbers.wrong.or(Some((numbers.len, kind))),
            }
            numbers.len += 1;
        }
        Ok(Value::List(numbers))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object)
    }
}

/// Reads a list of objects and hands them over one by one, with their places. An error of `take` ends the reading.
pub struct Entries<const N: usize, F> {
    pub fields: Fields<N>,
    /// What messages call the list.
    pub list: &'static str,
    pub take: F,
}

impl<'de, const N: usize, F: FnMut(usize, Entry<N>) -> Result<(), Wrong>> DeserializeSeed<'de>
    for Entries<N, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, const N: usize, F: FnMut(usize, Entry<N>) -> Result<(), Wrong>> Visitor<'de> for Entries<N, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of {}", self.list)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut place = 0;
        while let Some(entry) = list.next_element_seed(self.fields)? {
            (self.take)(place, entry).map_err(A::Error::custom)?;
            place += 1;
        }
        Ok(())
    }
}
