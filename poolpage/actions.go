package poolpage

import (
	"net/http"
	"net/url"
	"path"
	"strconv"
)

// act changes the limit, or resets the pool, and shows the page again.
func (h *handler) act(w http.ResponseWriter, r *http.Request) {
	if err := h.origin.Check(r); err != nil {
		http.Error(w, "the request comes from another site: use the page itself", http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if err := r.ParseForm(); err != nil { // it may have named another pool than the first
		http.Error(w, "the form cannot be read: write it as in pool=NAME&limit=20", http.StatusBadRequest)
		return
	}
	of := h.chosen(r)
	switch {
	case of == nil:
		http.Error(w, "no pool of that name is shown here", http.StatusNotFound)
		return
	case of.pool == nil:
		http.Error(w, foreign, http.StatusConflict)
		return
	}
	if path.Base(r.URL.Path) == "reset" {
		of.pool.Reset()
	} else {
		n, err := strconv.Atoi(r.PostFormValue("limit"))
		if err != nil {
			http.Error(w, "the limit is not a number: write one from 1 to 65535, as in limit=20", http.StatusBadRequest)
			return
		}
		if err := of.pool.SetConnectionLimit(n); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	// Not by http.Redirect, which would make the place absolute, without what http.StripPrefix has taken away.
	w.Header().Set("Location", "./?pool="+url.QueryEscape(of.name))
	w.WriteHeader(http.StatusSeeOther)
}
