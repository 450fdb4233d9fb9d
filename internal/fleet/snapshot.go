package fleet

// Snapshot is a fleet as this process knows it.
type Snapshot struct {
	Limit  int    // of the fleet
	Held   int    // tokens in this process
	Wanted int    // tokens that it lacks
	Self   ID     // 0 without a session
	Peers  []Peer // all members as they were last seen; not to be changed
	Err    error  // why there is no session
}

// Snapshot takes no lock of the pool's.
func (f *Fleet) Snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Snapshot{
		Limit: f.m.Limit(), Held: f.m.held(), Wanted: f.m.want(), Self: f.m.id, Peers: f.m.peers, Err: f.err,
	}
}
