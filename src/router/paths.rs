//! The routes of one host, by their paths.
//!
//! Guarantees: the longest path wins, on segment borders; among routes whose paths are equally long
//! the earlier one goes first; it makes no difference whether a route was there from the start or
//! came, or others went, later.

use std::sync::Arc;

use super::path_readings::{AmbiguousPath, PathReadings, PathRule, Reading, SpecialPaths};
use super::route::Route;

/// There is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// For this host and path.
    #[error("no route for this host and path")]
    NoRoute,
    /// Servers read the path in different ways, which would meet different routes or rules.
    #[error(transparent)]
    AmbiguousPath(#[from] AmbiguousPath),
}

/// The routes of one host. Most hosts have one, for every path.
#[derive(Debug)]
pub(super) enum Paths<S> {
    One(Order, Arc<Route<S>>),
    Many(Arc<Many<S>>),
}

/// Which of several routes came first, where that matters.
pub(super) type Order = u32;

/// The longest path first.
#[derive(Debug)]
pub(super) struct Many<S> {
    routes: Vec<(PathRule, Order, Arc<Route<S>>)>,
    special: SpecialPaths,
}

// === impl Many ===

impl<S> Many<S> {
    fn of(routes: impl IntoIterator<Item = (Order, Arc<Route<S>>)>) -> Self {
        let mut many = Self {
            routes: Vec::new(),
            special: SpecialPaths::default(),
        };
        for (order, route) in routes {
            many.add(order, route);
        }
        many
    }

    fn add(&mut self, order: Order, route: Arc<Route<S>>) {
        let rule = self.special.rule(route.config().path());
        let length = rule.as_str().len();
        let is_before = |(other, ..): &(PathRule, _, _)| other.as_str().len() >= length;
        let at = self.routes.partition_point(is_before);
        self.routes.insert(at, (rule, order, route));
    }

    /// The route that all readings of a path meet.
    fn find(&self, path: &PathReadings<'_>) -> Result<&Arc<Route<S>>, RouteError> {
        let is_for_all = |(rule, ..): &(PathRule, _, _)| rule.as_str() == "/";
        let position = match self.routes.iter().all(is_for_all) {
            true => Some(0),
            false => path.agree(&self.special, |reading| self.position(reading))?,
        };
        let found = position.and_then(|position| self.routes.get(position));
        let (rule, _, route) = found.ok_or(RouteError::NoRoute)?;
        let is_stripped = route.config().forwarding.strip_path && rule.as_str() != "/";
        if is_stripped && (path.leave(rule) || path.have_authority_behind(rule)) {
            // The instance, which does not see the prefix, would read another path below it.
            return Err(AmbiguousPath.into());
        }
        Ok(route)
    }

    fn position(&self, reading: &Reading<'_>) -> Option<usize> {
        let mut fitting = (self.routes.iter().enumerate())
            .filter(|(_, (rule, ..))| reading.is_below(rule))
            .peekable();
        let (position, (first, ..)) = fitting.peek()?;
        let (first, position) = (first.as_str(), *position);
        // Where routes differ by letter case alone, it means something.
        let mut alike = fitting.take_while(|(_, (rule, ..))| rule.as_str().len() == first.len());
        let exact = alike.find(|(_, (rule, ..))| reading.exact().is_below(rule));
        Some(exact.map_or(position, |(position, _)| position))
    }
}

impl<S> Clone for Many<S> {
    fn clone(&self) -> Self {
        Self {
            routes: self.routes.clone(),
            special: self.special.clone(),
        }
    }
}

// === impl Paths ===

impl<S> Paths<S> {
    /// Those of a host that has this route alone.
    pub(super) fn of(order: Order, route: Arc<Route<S>>) -> Self {
        match route.config().path() {
            "/" => Self::One(order, route),
            _ => Self::Many(Arc::new(Many::of([(order, route)]))),
        }
    }

    /// Adds a route, behind those whose paths are as long.
    pub(super) fn add(&mut self, order: Order, route: Arc<Route<S>>) {
        match self {
            Self::One(first, one) => {
                let both = [(*first, Arc::clone(one)), (order, route)];
                *self = Self::Many(Arc::new(Many::of(both)));
            }
            Self::Many(many) => Arc::make_mut(many).add(order, route),
        }
    }

    /// The same without the routes of this name; `None` where that leaves nothing.
    pub(super) fn without(&self, label: &str) -> Option<Self> {
        let mut rest = self.all().filter(|(_, route)| &**route.label() != label);
        let (order, first) = rest.next()?;
        let mut paths = Self::of(order, Arc::clone(first));
        rest.for_each(|(order, route)| paths.add(order, Arc::clone(route)));
        Some(paths)
    }

    /// The route that all readings of a path meet.
    pub(super) fn find(&self, path: &PathReadings<'_>) -> Result<&Arc<Route<S>>, RouteError> {
        match self {
            Self::One(_, route) => Ok(route),
            Self::Many(many) => many.find(path),
        }
    }

    /// The order of the first of them.
    pub(super) fn first(&self) -> Order {
        self.all().map(|(order, _)| order).min().unwrap_or_default()
    }

    /// All of them. There is one at least.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Arc<Route<S>>> {
        self.all().map(|(_, route)| route)
    }

    fn all(&self) -> impl Iterator<Item = (Order, &Arc<Route<S>>)> {
        let (one, many) = match self {
            Self::One(order, route) => (Some((*order, route)), None),
            Self::Many(many) => (None, Some(&many.routes)),
        };
        let many = many.into_iter().flatten();
        let many = many.map(|(_, order, route)| (*order, route));
        one.into_iter().chain(many)
    }
}

impl<S> Clone for Paths<S> {
    fn clone(&self) -> Self {
        match self {
            Self::One(order, route) => Self::One(*order, Arc::clone(route)),
            Self::Many(many) => Self::Many(Arc::clone(many)),
        }
    }
}
