/**
 * A fan-out under its cell: a line of numbers, a bar, and a heat map where a metric is logged.
 */

import * as React from 'react';

import { IPicture, isUnfinished, numbers, secondsWords, shares } from '../model/fanout';
import type { IItemCounts } from '../model/fanout';
import { plainly } from '../model/format';
import { HeatMap } from './heatmap';
import { LinkButton } from './shared';

/** Failed items that are named; the rest is on the page of the run. */
const NAMED = 3;

export interface IFanOutViewProps {
  readonly picture: IPicture;
  /** Open an item's execution; without one the execution of the whole. */
  readonly onOpen: (item: number | null) => void;
}

export function FanOutView({ picture, onOpen }: IFanOutViewProps): JSX.Element {
  const { metric, failed, counts, slowest, step } = picture;
  const said = numbers(picture);
  const hidden = counts.failed - Math.min(NAMED, failed.length);
  return (
    <section className="jp-mlb-FanOut" aria-label={`Items of ${step}`}>
      <div className="jp-mlb-FanOut-line">
        <b>{said.done}</b>
        {said.share && <span>{said.share}</span>}
        {said.failed && <span className="jp-mlb-FanOut-failed">{said.failed}</span>}
        <span className="jp-mlb-FanOut-rest">
          {said.rest.join(' · ')}
          {slowest && (
            <>
              {said.rest.length > 0 && ' · '}slowest{' '}
              <LinkButton
                title={`Open ${slowest.label}`}
                keepsKeys
                onClick={() => onOpen(slowest.item)}
              >
                {plainly(slowest.label) || `item ${slowest.item}`}
              </LinkButton>{' '}
              {secondsWords(slowest.seconds)}
            </>
          )}
        </span>
      </div>
      <FanOutBar
        counts={counts}
        total={picture.total}
        isUnderWay={isUnfinished(picture)}
        label={[said.done, said.failed].filter(Boolean).join(', ')}
      />
      {metric !== null && <HeatMap picture={picture} onOpen={onOpen} />}
      {failed.length > 0 && (
        <ul className="jp-mlb-FanOut-failures">
          {failed.slice(0, NAMED).map(each => (
            <li key={each.item}>
              <LinkButton title={`Open ${each.label}`} keepsKeys onClick={() => onOpen(each.item)}>
                {plainly(each.label) || `item ${each.item}`}
              </LinkButton>{' '}
              <span className="jp-mlb-FanOut-why" title={each.why}>
                {each.why}
              </span>
            </li>
          ))}
          {hidden > 0 && (
            <li>
              <LinkButton keepsKeys onClick={() => onOpen(null)}>
                and {hidden.toLocaleString('en-US')} more
              </LinkButton>
            </li>
          )}
        </ul>
      )}
    </section>
  );
}

export interface IFanOutBarProps {
  readonly counts: IItemCounts;
  readonly total: number | null;
  readonly isUnderWay: boolean;
  readonly label: string;
}

/** One bar, shared by the states. */
export function FanOutBar({ counts, total, isUnderWay, label }: IFanOutBarProps): JSX.Element {
  return (
    <div
      className={`jp-mlb-FanOutBar${isUnderWay ? ' jp-mod-live' : ''}`}
      role="img"
      aria-label={label}
    >
      {shares(counts, total).map(({ state, share }) => (
        <span
          key={state}
          data-state={state}
          title={state === 'left' ? undefined : `${counts[state].toLocaleString('en-US')} ${state}`}
          style={{ flexGrow: share }}
        />
      ))}
    </div>
  );
}
