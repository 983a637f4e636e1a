/**
 * The filter on top of the sidebar, and the list of what goes on, which floats over everything.
 */

import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import * as React from 'react';

import { Filter, Proposals } from '../components/filter';
import type { FilterModel } from '../model/filter';

export class FilterLine extends ReactWidget {
  constructor(private _filter: FilterModel) {
    super();
    this.addClass('jp-mlb-FilterLine');
    this._box = new ProposalBox(_filter, () => this._input);
    _filter.changed.connect(this._place, this);
  }

  /** Let the keyboard go to it. */
  focus(): void {
    this._input?.focus();
    this._input?.select();
  }

  override dispose(): void {
    this._box.dispose();
    super.dispose();
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this._filter.changed}>
        {() => <Filter filter={this._filter} onInput={this._onInput} />}
      </UseSignal>
    );
  }

  protected override onBeforeHide(message: Message): void {
    this._filter.closeProposals();
    super.onBeforeHide(message);
  }

  private _onInput = (input: HTMLInputElement | null): void => {
    this._input = input;
  };

  /** Show what goes on under the line, where the panel around it would cut it off. */
  private _place(): void {
    const isOpen = this._filter.proposals.length > 0 && this._input !== null;
    if (isOpen && !this._box.isAttached) {
      Widget.attach(this._box, document.body);
    } else if (!isOpen && this._box.isAttached) {
      Widget.detach(this._box);
    }
    const place = this._input?.getBoundingClientRect();
    if (isOpen && place) {
      const { style } = this._box.node;
      style.left = `${place.left}px`;
      style.top = `${place.bottom + 2}px`;
      style.minWidth = `${place.width}px`;
    }
  }

  private _box: ProposalBox;
  private _input: HTMLInputElement | null = null;
}

class ProposalBox extends ReactWidget {
  constructor(
    private _filter: FilterModel,
    private _input: () => HTMLInputElement | null
  ) {
    super();
    this.addClass('jp-mlb-Proposals');
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this._filter.changed}>
        {() => (
          <Proposals
            proposals={this._filter.proposals}
            active={this._filter.active}
            onChoose={at => {
              const typed = this._filter.choose(at);
              const input = this._input();
              if (typed && input) {
                // The line has the new text only after it has been drawn again.
                window.requestAnimationFrame(() =>
                  input.setSelectionRange(typed.caret, typed.caret)
                );
              }
            }}
          />
        )}
      </UseSignal>
    );
  }
}
