// Keeps the end of the conversation in view, but only for those who are looking at it.

const NEAR = 8; // px

export class StickyScroll {
  #box;
  #isStuck = true;
  #top = 0;

  /** `box` scrolls `content`; `jump` is the button that leads back to the end. */
  constructor(box, content, jump) {
    this.#box = box;
    const observer = new ResizeObserver(() => this.#isStuck && this.#toEnd());
    observer.observe(content);
    observer.observe(box);
    box.addEventListener("scroll", () => {
      // The event comes late: text may have grown below since. Only who moves up has left the end.
      const isNear = box.scrollHeight - box.scrollTop - box.clientHeight <= NEAR;
      if (isNear) this.#isStuck = true;
      else if (box.scrollTop < this.#top) this.#isStuck = false;
      this.#top = box.scrollTop;
      jump.hidden = this.#isStuck;
    });
    jump.addEventListener("click", () => this.stick());
  }

  stick() {
    this.#isStuck = true;
    this.#toEnd();
  }

  #toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
  }
}
