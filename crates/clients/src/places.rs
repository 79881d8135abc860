//! One place a connection. The shell numbers the places and uses them again; a number that is out of date
//! finds nobody.

use kvorum_base::ConnId;

/// A place in the table.
#[derive(Debug)]
struct Place<T> {
    generation: u32,
    client: Option<Box<T>>,
}

/// All clients of a node or a router.
#[derive(Debug)]
pub struct Places<T> {
    places: Vec<Place<T>>,
    count: u64,
    opened: u64,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            count: 0,
            opened: 0,
        }
    }
}

impl<T> Places<T> {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many there have been.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Puts a new client into its place. It is made with its number for CLIENT ID, which is never given to
    /// another.
    ///
    /// # Panics
    /// If the place is not free.
    pub fn open(&mut self, conn: ConnId, make: impl FnOnce(u64) -> T) {
        let at = conn.index as usize;
        if self.places.len() <= at {
            self.places.resize_with(at + 1, || Place {
                generation: 0,
                client: None,
            });
        }
        self.opened += 1;
        let client = make(self.opened);
        let place = &mut self.places[at];
        assert!(place.client.is_none(), "connection {conn} was opened twice");
        *place = Place {
            generation: conn.generation,
            client: Some(Box::new(client)),
        };
        self.count += 1;
    }

    /// Forgets a client, if it is there.
    pub fn close(&mut self, conn: ConnId) {
        if let Some(place) = self.place(conn)
            && place.client.take().is_some()
        {
            self.count -= 1;
        }
    }

    fn place(&mut self, conn: ConnId) -> Option<&mut Place<T>> {
        self.places
            .get_mut(conn.index as usize)
            .filter(|place| place.generation == conn.generation)
    }

    /// The client, if it is there and not taken out.
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut T> {
        self.place(conn)?.client.as_deref_mut()
    }

    /// Takes a client out while its requests are run; [`Self::put_back`] ends that.
    pub fn take(&mut self, conn: ConnId) -> Option<Box<T>> {
        self.place(conn)?.client.take()
    }

    /// Puts a client back that was taken out.
    ///
    /// # Panics
    /// If its place is another's by now.
    pub fn put_back(&mut self, conn: ConnId, client: Box<T>) {
        let place = self
            .place(conn)
            .expect("a client that was taken out has its place");
        place.client = Some(client);
    }

    /// All clients but those that are taken out.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places
            .iter()
            .filter_map(|place| place.client.as_deref())
    }
}
